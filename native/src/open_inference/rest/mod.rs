//! The plain infer over HTTP: from a body, JSON and bytes behind it, to arrays, and from rows of outputs to a body.
//!
//! What is not plain is None, good or bad: `services/open_inference/rest/` judges it, in Triton's words.

mod answer;
mod body;
mod call;
mod values;

pub use answer::Format;
pub use body::{Body, Output};
pub use call::{Call, Common, refusal};

/// The header that says how many bytes of a body are JSON.
pub const JSON_SIZE: &str = "inference-header-content-length";

/// The model and the version that the path of a plain infer names.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    pub model: &'a str,
    pub version: Option<i64>,
}

impl<'a> Asked<'a> {
    /// None for any other call, and for one in unusual letters: `services/open_inference/rest/routes.py` knows them all.
    pub fn of(path: &'a str) -> Option<Self> {
        let named = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
        let (model, version) = match named.split_once("/versions/") {
            Some((model, digits)) => (model, Some(number(digits)?)),
            None => (named, None),
        };
        let plain = !model.is_empty() && !model.bytes().any(|byte| matches!(byte, b'/' | b'%'));
        plain.then_some(Self { model, version })
    }
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_model_and_version() {
        let asked = |model, version| Some(Asked { model, version });
        assert_eq!(Asked::of("/v2/models/m/infer"), asked("m", None));
        assert_eq!(Asked::of("/v2/models/a.b:c/versions/007/infer"), asked("a.b:c", Some(7)));
        assert_eq!(Asked::of("/v2/models/infer/infer"), asked("infer", None));
    }

    #[test]
    fn all_else_is_for_another() {
        for path in [
            "/v2/models/m",
            "/v2/models//infer",
            "/v2/models/infer",
            "/v2/models/a%20b/infer",
            "/v2/models/a/b/infer",
            "/v2/models/m/versions//infer",
            "/v2/models/m/versions/+1/infer",
            "/v2/models/m/versions/9223372036854775808/infer",
            "/v2/models/m/infer/",
            "/v2/models/m/generate",
            "/v1/models/m/infer",
        ] {
            assert_eq!(Asked::of(path), None, "{path}");
        }
    }
}

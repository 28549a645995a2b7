//! Which plain call a path asks for, where it needs no second look.

/// The model and the version that the path of a plain call names.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelPath<'a> {
    pub model: &'a str,
    pub version: Option<i64>,
}

impl<'a> ModelPath<'a> {
    /// Of a :predict. None for any other call, and for one in unusual letters: `services/tf_serving/rest/routes.py` knows
    /// them all.
    pub fn of_predict(path: &'a str) -> Option<Self> {
        Self::of(path, "/v1/models/", ":predict", b"/:%")
    }

    /// Of an infer, in the same way: `services/open_inference/rest/routes.py` knows them all.
    pub fn of_infer(path: &'a str) -> Option<Self> {
        Self::of(path, "/v2/models/", "/infer", b"/%")
    }

    fn of(path: &'a str, before: &str, behind: &str, unusual: &[u8]) -> Option<Self> {
        let named = path.strip_prefix(before)?.strip_suffix(behind)?;
        let (model, version) = match named.split_once("/versions/") {
            Some((model, digits)) => (model, Some(number(digits)?)),
            None => (named, None),
        };
        let plain = !model.is_empty() && !model.bytes().any(|byte| unusual.contains(&byte));
        plain.then_some(Self { model, version })
    }
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(model: &str, version: Option<i64>) -> Option<ModelPath<'_>> {
        Some(ModelPath { model, version })
    }

    #[test]
    fn predicts_by_model_and_version() {
        assert_eq!(ModelPath::of_predict("/v1/models/m:predict"), named("m", None));
        assert_eq!(ModelPath::of_predict("/v1/models/a.b-c/versions/007:predict"), named("a.b-c", Some(7)));
    }

    #[test]
    fn no_predict() {
        for path in [
            "/v1/models/m",
            "/v1/models/:predict",
            "/v1/models/a%20b:predict",
            "/v1/models/a:b:predict",
            "/v1/models/m/labels/l:predict",
            "/v1/models/m/versions/:predict",
            "/v1/models/m/versions/+1:predict",
            "/v1/models/m/versions/9223372036854775808:predict",
            "/v1/models/m:PREDICT",
            "/V1/models/m:predict",
            "/v1/models/m:predict/",
            "/v1/models/m:classify",
            "/v2/models/m/infer",
        ] {
            assert_eq!(ModelPath::of_predict(path), None, "{path}");
        }
    }

    #[test]
    fn infers_by_model_and_version() {
        assert_eq!(ModelPath::of_infer("/v2/models/m/infer"), named("m", None));
        assert_eq!(ModelPath::of_infer("/v2/models/a.b:c/versions/007/infer"), named("a.b:c", Some(7)));
        assert_eq!(ModelPath::of_infer("/v2/models/infer/infer"), named("infer", None));
    }

    #[test]
    fn no_infer() {
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
            assert_eq!(ModelPath::of_infer(path), None, "{path}");
        }
    }
}

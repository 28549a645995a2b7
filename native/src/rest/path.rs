//! Which call of the REST API a path asks for, where it needs no second look.

/// The model and the version that a plain :predict names.
#[derive(Debug, PartialEq, Eq)]
pub struct Predict<'a> {
    pub model: &'a str,
    pub version: Option<i64>,
}

impl<'a> Predict<'a> {
    /// None for any other call, and for one in unusual letters: `services/tf_serving/rest/routes.py` knows them all.
    pub fn of(path: &'a str) -> Option<Self> {
        let named = path.strip_prefix("/v1/models/")?.strip_suffix(":predict")?;
        let (model, version) = match named.split_once("/versions/") {
            Some((model, digits)) => (model, Some(number(digits)?)),
            None => (named, None),
        };
        let plain = !model.is_empty() && !model.bytes().any(|byte| matches!(byte, b'/' | b':' | b'%'));
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
    fn predicts_by_model_and_version() {
        let of = |model, version| Some(Predict { model, version });
        assert_eq!(Predict::of("/v1/models/m:predict"), of("m", None));
        assert_eq!(Predict::of("/v1/models/a.b-c/versions/007:predict"), of("a.b-c", Some(7)));
    }

    #[test]
    fn all_else_is_for_another() {
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
            assert_eq!(Predict::of(path), None, "{path}");
        }
    }
}

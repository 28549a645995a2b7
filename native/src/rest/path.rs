//! Parses the path of a plain call, if it has the usual form.

use crate::predict::Version;

/// The model and the version in the path of a plain call.
#[derive(Debug, PartialEq, Eq)]
pub struct ModelPath<'a> {
    pub model: &'a str,
    pub version: Version<'a>,
}

/// The method of a plain call of TensorFlow Serving's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Predict,
    Classify,
    Regress,
}

impl<'a> ModelPath<'a> {
    /// Parses the path of a :predict, :classify or :regress. None for any other path, and for one with unusual
    /// characters: `services/tf_serving/rest/routes.py` handles them all.
    pub fn of_call(path: &'a str) -> Option<(Self, Verb)> {
        let (named, verb) = path.strip_prefix("/v1/models/")?.rsplit_once(':')?;
        let verb = match verb {
            "predict" => Verb::Predict,
            "classify" => Verb::Classify,
            "regress" => Verb::Regress,
            _ => return None,
        };
        let unusual = b"/:%";
        if !named.contains('/') {
            return Some((Self { model: named, version: Version::Latest }.plain(unusual)?, verb));
        }
        let asked = match named.split_once("/labels/") {
            Some((model, label)) if is_plain(label, unusual) => {
                Self { model, version: Version::Label(label.as_bytes()) }.plain(unusual)
            }
            _ => Self::numbered(named, unusual),
        };
        Some((asked?, verb))
    }

    /// Parses the path of an infer in the same way: `services/open_inference/rest/routes.py` handles all other paths.
    pub fn of_infer(path: &'a str) -> Option<Self> {
        Self::numbered(path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?, b"/%")
    }

    /// Parses the version's number, if the path has one.
    fn numbered(named: &'a str, unusual: &[u8]) -> Option<Self> {
        let (model, version) = match named.split_once("/versions/") {
            Some((model, digits)) => (model, Version::Number(number(digits)?)),
            None => (named, Version::Latest),
        };
        Self { model, version }.plain(unusual)
    }

    fn plain(self, unusual: &[u8]) -> Option<Self> {
        is_plain(self.model, unusual).then_some(self)
    }
}

/// Whether a name is not empty, and has none of these characters.
fn is_plain(name: &str, unusual: &[u8]) -> bool {
    !name.is_empty() && !name.bytes().any(|byte| unusual.contains(&byte))
}

fn number(digits: &str) -> Option<i64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(model: &str, version: Option<i64>) -> Option<ModelPath<'_>> {
        Some(ModelPath { model, version: version.into() })
    }

    #[test]
    fn calls_by_model_and_version() {
        let of = |path| ModelPath::of_call(path);
        assert_eq!(of("/v1/models/m:predict"), named("m", None).map(|asked| (asked, Verb::Predict)));
        assert_eq!(of("/v1/models/a/versions/007:regress"), named("a", Some(7)).map(|asked| (asked, Verb::Regress)));
        let labelled = ModelPath { model: "a.b-c", version: Version::Label(b"stable") };
        assert_eq!(of("/v1/models/a.b-c/labels/stable:classify"), Some((labelled, Verb::Classify)));
    }

    #[test]
    fn no_call() {
        for path in [
            "/v1/models/m",
            "/v1/models/:predict",
            "/v1/models/a%20b:predict",
            "/v1/models/a:b:predict",
            "/v1/models/m/labels/:predict",
            "/v1/models/m/labels/a%20b:predict",
            "/v1/models/m/labels/l/versions/1:predict",
            "/v1/models/m/versions/1/labels/l:predict",
            "/v1/models/m/versions/:predict",
            "/v1/models/m/versions/+1:predict",
            "/v1/models/m/versions/9223372036854775808:predict",
            "/v1/models/m:PREDICT",
            "/V1/models/m:predict",
            "/v1/models/m:predict/",
            "/v1/models/m:classifies",
            "/v2/models/m/infer",
        ] {
            assert_eq!(ModelPath::of_call(path), None, "{path}");
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

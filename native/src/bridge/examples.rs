//! One signature of one version, as needed for plain requests with tf.Examples.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::signature::{Counter, Signature};
use crate::examples::Format;

/// How requests of one signature with tf.Examples are answered.
pub struct Examples {
    pub format: Format,
    pub classify: Option<Arc<Inference>>,
    pub regress: Option<Arc<Inference>>,
    /// The signature of a MultiInference, whatever its inferences are.
    pub multi: Arc<Signature>,
    /// The name that each output has in the model, in the order of the outputs.
    pub tensors: Vec<String>,
    /// A number that is equal for signatures of a version with the same inputs.
    pub inputs: usize,
    /// Whether the single input takes serialized Examples; otherwise the inputs are their features.
    pub serialized: bool,
}

/// How Classify or Regress uses a signature's outputs.
pub struct Inference {
    pub signature: Arc<Signature>,
    /// The signature for calls over REST, which are counted differently; None if the server has no REST port.
    pub rest: Option<Arc<Signature>>,
    pub classes: Option<Source>,
    /// The scores of Classify, or the values of Regress.
    pub values: Option<Source>,
    pub result: Kind,
    /// Raises Python's exception if no answer can be made; takes arrays by alias and the number of Examples.
    pub check: Py<PyAny>,
}

/// An output: its alias, and its position among all outputs of its signature.
pub struct Source {
    pub alias: String,
    pub output: usize,
}

/// The kind of a result.
pub enum Kind {
    /// If the model returns no classes, there must be as many scores as labels, or any number if there are no labels.
    Classes {
        labels: Vec<Bytes>,
    },
    Values,
}

/// The fields as Python passes them; `headrace_native.pyi` describes each.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct ExamplesFields {
    classify: Option<InferenceFields>,
    regress: Option<InferenceFields>,
    multi: (Py<PyAny>, Py<PyAny>, Py<PyAny>),
    tensors: Vec<String>,
    inputs: usize,
    serialized: bool,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct InferenceFields {
    classes: Option<String>,
    values: Option<String>,
    labels: Vec<String>,
    check: Py<PyAny>,
    answered: Py<PyAny>,
    failed: Py<PyAny>,
    rest: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl Examples {
    /// `signature` is the one for Predicts with the same signature name.
    pub fn new(signature: &Signature, format: Format, fields: ExamplesFields) -> PyResult<Self> {
        let (answered, failed, rows) = fields.multi;
        let mut counter = Counter::new(signature.counter.bounds.clone(), answered, failed);
        counter.rows = Some(Arc::new(rows));
        let classify = fields.classify.map(|own| {
            let labels = own.labels.iter().map(|label| Bytes::copy_from_slice(label.as_bytes())).collect();
            Inference::new(signature, own, Kind::Classes { labels })
        });
        Ok(Self {
            format,
            classify: classify.transpose()?.map(Arc::new),
            regress: fields.regress.map(|own| Inference::new(signature, own, Kind::Values)).transpose()?.map(Arc::new),
            multi: Arc::new(counted_by(signature, counter)),
            tensors: fields.tensors,
            inputs: fields.inputs,
            serialized: fields.serialized,
        })
    }
}

impl Inference {
    fn new(signature: &Signature, fields: InferenceFields, result: Kind) -> PyResult<Self> {
        let counted =
            |answered, failed| counted_by(signature, Counter::new(signature.counter.bounds.clone(), answered, failed));
        let source = |alias: String| {
            let output = signature.outputs.iter().position(|output| *output == alias);
            let output = output.ok_or_else(|| PyValueError::new_err(format!("the signature has no output {alias}")))?;
            Ok::<_, PyErr>(Source { alias, output })
        };
        Ok(Self {
            signature: Arc::new(counted(fields.answered, fields.failed)),
            rest: fields.rest.map(|(answered, failed)| Arc::new(counted(answered, failed))),
            classes: fields.classes.map(source).transpose()?,
            values: fields.values.map(source).transpose()?,
            result,
            check: fields.check,
        })
    }

    /// The outputs that it uses.
    pub fn sources(&self) -> impl Iterator<Item = &Source> + Clone {
        self.classes.iter().chain(&self.values)
    }
}

/// A copy of the signature, for calls that are counted differently.
fn counted_by(signature: &Signature, counter: Counter) -> Signature {
    Signature { counter, answer_row: Arc::default(), ..signature.clone() }
}

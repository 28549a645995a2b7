//! One signature of one version, as plain requests that carry tf.Examples know it.

use std::sync::Arc;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::signature::{Counter, Signature};
use crate::examples::Format;

/// How the requests of one signature that carry tf.Examples are answered.
pub struct Examples {
    pub format: Format,
    pub classify: Option<Arc<Inference>>,
    pub regress: Option<Arc<Inference>>,
    /// For a MultiInference, whichever inferences it asks for.
    pub multi: Arc<Signature>,
    /// What the model calls its outputs, in their order.
    pub tensors: Vec<String>,
    /// The same number for signatures of a version that have the same inputs.
    pub inputs: usize,
    /// Whether the one input takes Examples as they are; otherwise its inputs are their features.
    pub serialized: bool,
}

/// What Classify or Regress makes of a signature's outputs.
pub struct Inference {
    pub signature: Arc<Signature>,
    pub classes: Option<Source>,
    /// The scores of Classify, or the values of Regress.
    pub values: Option<Source>,
    pub result: Kind,
    /// Raises Python's exception where no answer can be made: takes arrays by alias, and the number of Examples.
    pub check: Py<PyAny>,
}

/// An output: its alias, and its place among all outputs of its signature.
pub struct Source {
    pub alias: String,
    pub output: usize,
}

/// Which result it is.
pub enum Kind {
    /// Where the model gives no classes, there are as many as labels; any number where there are none of these either.
    Classes {
        labels: Vec<Bytes>,
    },
    Values,
}

/// What Python says of it; `headrace_native.pyi` tells what each means.
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
}

impl Examples {
    /// `signature` is that of its Predicts.
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
        let counter = Counter::new(signature.counter.bounds.clone(), fields.answered, fields.failed);
        let source = |alias: String| {
            let output = signature.outputs.iter().position(|output| *output == alias);
            let output = output.ok_or_else(|| PyValueError::new_err(format!("there is no output {alias}")))?;
            Ok::<_, PyErr>(Source { alias, output })
        };
        Ok(Self {
            signature: Arc::new(counted_by(signature, counter)),
            classes: fields.classes.map(source).transpose()?,
            values: fields.values.map(source).transpose()?,
            result,
            check: fields.check,
        })
    }

    /// The outputs that it is made of.
    pub fn sources(&self) -> impl Iterator<Item = &Source> + Clone {
        self.classes.iter().chain(&self.values)
    }
}

/// The same signature, for calls that are counted otherwise.
fn counted_by(signature: &Signature, counter: Counter) -> Signature {
    Signature { counter, answer_row: Arc::default(), ..signature.clone() }
}

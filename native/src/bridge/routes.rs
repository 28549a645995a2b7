//! Finds the queue of a plain request by its model, version and signature.

use std::sync::Arc;

use parking_lot::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::examples::{Examples, ExamplesFields};
use super::lane::Lane;
use super::magnitude::Magnitude;
use super::padding::PaddingFields;
use super::signature::{Counter, Signature};
use crate::predict::{Format, Input, Spec, Version};
use crate::protobuf::Dtype;
use crate::{examples, open_inference};

/// One signature of one version, and the lane in which its tasks wait.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Clone)]
pub struct Route {
    pub signature: Arc<Signature>,
    /// The signature for calls over REST, which are counted differently; None if the server has no REST port, or if
    /// JSON cannot express values of its types.
    pub rest: Option<Arc<Signature>>,
    /// How a ModelInfer of the Open Inference Protocol is answered; None if Python must see it.
    pub infer: Option<Arc<Infer>>,
    /// How requests with tf.Examples are answered; None if Python must see them.
    pub examples: Option<Arc<Examples>>,
    pub lane: Lane,
}

/// One signature of one version, as needed for plain requests of the Open Inference Protocol.
pub struct Infer {
    pub signature: Arc<Signature>,
    pub format: open_inference::Format,
    /// The names of all outputs.
    pub outputs: Vec<Vec<u8>>,
    /// The data for calls over REST; None if the server has no REST port.
    pub rest: Option<Arc<OverRest>>,
}

/// One signature of one version, as needed for plain requests of the Open Inference Protocol over REST.
pub struct OverRest {
    pub signature: Arc<Signature>,
    pub common: Arc<open_inference::json::Common>,
}

/// The fields for the Open Inference Protocol that differ from Predict's, as Python passes them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct InferFields {
    outputs: Vec<(String, u64)>,
    full: (u8, String),
    answered: Py<PyAny>,
    failed: Py<PyAny>,
    rest: Option<(Py<PyAny>, Py<PyAny>)>,
}

/// The fields of a route as Python passes them, by these names; `headrace_native.pyi` describes each.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Fields {
    model: String,
    version: i64,
    signature: String,
    inputs: Vec<(String, u64, Vec<Option<usize>>)>,
    outputs: Vec<String>,
    batched: bool,
    max_rows: usize,
    larger_alone: bool,
    max_send: usize,
    as_content: bool,
    full: (u8, String),
    bounds: Vec<f64>,
    answered: Py<PyAny>,
    failed: Py<PyAny>,
    rest: Option<(Py<PyAny>, Py<PyAny>)>,
    infer: Option<InferFields>,
    padding: Option<PaddingFields>,
    bound: Option<f64>,
    examples: Option<ExamplesFields>,
}

#[pymethods]
impl Route {
    #[new]
    fn new(lane: &Bound<'_, Lane>, fields: Fields) -> PyResult<Self> {
        let inputs = fields.inputs.into_iter().map(input).collect::<PyResult<Vec<_>>>()?;
        let signature = Signature {
            model: fields.model.as_str().into(),
            batched: fields.batched,
            one_shape: !fields.batched || inputs.iter().all(|input| input.inner.iter().all(Option::is_some)),
            padding: fields.padding.map(|padding| Arc::new(padding.into())),
            bound: fields.bound.map(Magnitude::new),
            inputs,
            outputs: fields.outputs.into(),
            max_rows: fields.max_rows,
            max_send: fields.max_send,
            format: Format::new(&fields.model, fields.version, &fields.signature, fields.as_content),
            full: fields.full,
            counter: Counter::new(fields.bounds, fields.answered, fields.failed),
            answer_row: Arc::default(),
        };
        let infer = fields.infer.map(|own| own.made(&fields.model, fields.version, &signature)).transpose()?;
        let format = || examples::Format::new(&fields.model, fields.version, &fields.signature);
        let examples = fields.examples.map(|own| Examples::new(&signature, format(), own)).transpose()?;
        // Only a Predict may have more rows than a batch.
        let max_rows = if fields.larger_alone { usize::MAX } else { signature.max_rows };
        let signature = Signature { max_rows, ..signature };
        let over_rest = |(answered, failed)| Signature {
            counter: Counter::new(signature.counter.bounds.clone(), answered, failed),
            answer_row: Arc::default(),
            ..signature.clone()
        };
        let rest = fields.rest.map(over_rest).map(Arc::new);
        Ok(Self {
            signature: Arc::new(signature),
            rest,
            infer: infer.map(Arc::new),
            examples: examples.map(Arc::new),
            lane: lane.get().clone(),
        })
    }
}

impl InferFields {
    /// `signature` is the signature for Predict calls.
    fn made(self, model: &str, version: i64, signature: &Signature) -> PyResult<Infer> {
        let counted = |answered, failed| Signature {
            full: self.full.clone(),
            counter: Counter::new(signature.counter.bounds.clone(), answered, failed),
            answer_row: Arc::default(),
            ..signature.clone()
        };
        let outputs = self.outputs.into_iter().map(output).collect::<PyResult<Vec<_>>>()?;
        let names = outputs.iter().map(|output| output.name.clone()).collect();
        let common =
            open_inference::json::Common { format: open_inference::json::Format::new(model, version), outputs };
        let rest = self.rest.map(|(answered, failed)| OverRest {
            signature: Arc::new(counted(answered, failed)),
            common: Arc::new(common),
        });
        Ok(Infer {
            signature: Arc::new(counted(self.answered, self.failed)),
            format: open_inference::Format::new(model, version),
            outputs: names,
            rest: rest.map(Arc::new),
        })
    }
}

fn output((name, dtype): (String, u64)) -> PyResult<open_inference::json::Output> {
    let wrong = format!("{name} has the dtype {dtype}, which a plain request cannot have");
    let dtype = Dtype::of_number(dtype).ok_or_else(|| PyValueError::new_err(wrong))?;
    Ok(open_inference::json::Output { name: name.into_bytes(), dtype })
}

fn input((alias, dtype, inner): (String, u64, Vec<Option<usize>>)) -> PyResult<Input> {
    let wrong = format!("{alias} has the dtype {dtype}, which a plain request cannot have");
    Input::new(alias, dtype, inner).ok_or_else(|| PyValueError::new_err(wrong))
}

type Signatures = FxHashMap<Vec<u8>, Arc<Route>>;

/// The version that each of a model's labels names.
type Labels = FxHashMap<String, i64>;

struct Versions {
    /// The version of a request that names none.
    latest: i64,
    by_number: FxHashMap<i64, Signatures>,
}

/// All routes; those of a model are replaced together.
#[pyclass(frozen, module = "headrace_native")]
pub struct Routes {
    table: RwLock<FxHashMap<Vec<u8>, Versions>>,
    /// The labels of each model, by the model's name.
    labels: RwLock<FxHashMap<String, Labels>>,
    default_signature: Vec<u8>,
}

/// A model's routes as Python passes them: by version, then by signature. A version without a plain signature has an
/// empty map.
type Published = FxHashMap<i64, FxHashMap<String, Py<Route>>>;

#[pymethods]
impl Routes {
    #[new]
    fn new(default_signature: String) -> Self {
        Self { table: RwLock::default(), labels: RwLock::default(), default_signature: default_signature.into_bytes() }
    }

    /// Replaces the routes of one model, where `latest` is the version for requests without a version.
    fn publish(&self, name: String, latest: i64, versions: Published) {
        let by_number: FxHashMap<_, _> = versions.into_iter().map(|(number, routes)| (number, table(routes))).collect();
        let mut models = self.table.write();
        let before = if by_number.is_empty() {
            models.remove(name.as_bytes())
        } else {
            models.insert(name.into_bytes(), Versions { latest, by_number })
        };
        drop(models);
        drop(before);
    }

    /// Replaces the labels of all models.
    fn assign_labels(&self, labels: FxHashMap<String, Labels>) {
        *self.labels.write() = labels;
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn table(routes: FxHashMap<String, Py<Route>>) -> Signatures {
    routes.into_iter().map(|(name, route)| (name.into_bytes(), Arc::new(route.get().clone()))).collect()
}

impl Routes {
    /// The route of a plain request for this model, version and signature; None if the request is not plain after all.
    pub fn find(&self, spec: &Spec) -> Option<Arc<Route>> {
        self.named(spec.name.bytes()?, spec.version, spec.signature.bytes()?)
    }

    /// The routes of several signatures of one version, which is the version in the first of `specs`.
    pub fn several(&self, specs: &[&Spec]) -> Option<Vec<Arc<Route>>> {
        let first = specs.first()?;
        let table = self.table.read();
        let signatures = self.of_version(&table, first.name.bytes()?, first.version)?;
        specs.iter().map(|spec| self.of_signature(signatures, spec.signature.bytes()?)).collect()
    }

    /// Finds a route by names; an empty name means the default signature.
    pub fn named(&self, model: &[u8], version: Version<'_>, signature: &[u8]) -> Option<Arc<Route>> {
        let table = self.table.read();
        self.of_signature(self.of_version(&table, model, version)?, signature)
    }

    fn of_version<'a>(
        &self,
        table: &'a FxHashMap<Vec<u8>, Versions>,
        model: &[u8],
        version: Version<'_>,
    ) -> Option<&'a Signatures> {
        let versions = table.get(model)?;
        let number = match version {
            Version::Latest => versions.latest,
            Version::Number(number) => number,
            Version::Label(label) => *self.labels.read().get(text(model)?)?.get(text(label)?)?,
        };
        versions.by_number.get(&number)
    }

    fn of_signature(&self, signatures: &Signatures, name: &[u8]) -> Option<Arc<Route>> {
        signatures.get(if name.is_empty() { self.default_signature.as_slice() } else { name }).cloned()
    }
}

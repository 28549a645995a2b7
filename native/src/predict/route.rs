//! Where plain requests go: by model, by version, by signature, and how their calls are counted.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::RwLock;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::request::{Input, Spec, Tensor};
use crate::bridge::queue::Lane;
use crate::grpc::Status;
use crate::protobuf::tensor::Dtype;
use crate::protobuf::wire;
use crate::queue::Key;

const DEFAULT_SIGNATURE: &[u8] = b"serving_default";

/// One signature of one version: all that a plain request for it is checked against, and where its tasks wait.
#[pyclass(frozen, module = "headrace_native")]
pub struct Route {
    pub inputs: Vec<Input>,
    one_shape: bool,
    pub as_content: bool,
    pub max_rows: usize,
    pub max_send: usize,
    pub model_spec: Bytes,
    pub lane: Lane,
    full: (u8, String),
    bounds: Vec<f64>,
    answered: Py<PyAny>,
    failed: Py<PyAny>,
}

#[pymethods]
impl Route {
    /// None stands for a dimension that varies; `failed` makes a code and a text of an exception.
    #[new]
    #[pyo3(signature = (
        lane, name, version, signature, inputs, *, max_rows, max_send, as_content, full, bounds, answered, failed
    ))]
    #[expect(clippy::too_many_arguments, reason = "a record that Python fills by name")]
    fn new(
        lane: &Bound<'_, Lane>,
        name: &str,
        version: i64,
        signature: &str,
        inputs: Vec<(String, u64, Vec<Option<usize>>)>,
        max_rows: usize,
        max_send: usize,
        as_content: bool,
        full: (u8, String),
        bounds: Vec<f64>,
        answered: Py<PyAny>,
        failed: Py<PyAny>,
    ) -> PyResult<Self> {
        let inputs: Vec<Input> = inputs.into_iter().map(Input::new).collect::<PyResult<_>>()?;
        Ok(Self {
            one_shape: inputs.iter().all(|input| input.inner.iter().all(Option::is_some)),
            inputs,
            as_content,
            max_rows,
            max_send,
            model_spec: model_spec(name, version, signature),
            lane: lane.get().clone(),
            full,
            bounds,
            answered,
            failed,
        })
    }
}

/// The response's effective ModelSpec, as a field of it.
fn model_spec(name: &str, version: i64, signature: &str) -> Bytes {
    let mut number = BytesMut::new();
    if version != 0 {
        wire::put_tag(&mut number, 1, wire::VARINT);
        wire::put_varint(&mut number, version as u64);
    }
    let mut spec = BytesMut::new();
    for (field, value) in [(1, name.as_bytes()), (2, &number), (3, signature.as_bytes())] {
        wire::put_field(&mut spec, field, value.len());
        spec.put_slice(value);
    }
    let mut field = BytesMut::new();
    wire::put_field(&mut field, 2, spec.len());
    field.put_slice(&spec);
    field.freeze()
}

type Signatures = FxHashMap<Vec<u8>, Arc<Py<Route>>>;

#[derive(Default)]
struct Versions {
    latest: i64,
    by_number: FxHashMap<i64, Signatures>,
}

/// Every route there is, replaced as a whole.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct Routes(RwLock<FxHashMap<Vec<u8>, Versions>>);

/// Routes as Python gives them: by model, by version, by signature. A version without a plain signature is there, too.
type Published = FxHashMap<String, FxHashMap<i64, FxHashMap<String, Py<Route>>>>;

#[pymethods]
impl Routes {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Replaces all of them.
    fn publish(&self, models: Published) {
        let table = models.into_iter().map(|(name, versions)| {
            let latest = versions.keys().copied().max().unwrap_or(0);
            let by_number = versions.into_iter().map(|(number, routes)| {
                (number, routes.into_iter().map(|(name, route)| (name.into_bytes(), Arc::new(route))).collect())
            });
            (name.into_bytes(), Versions { latest, by_number: by_number.collect() })
        });
        let before = std::mem::replace(&mut *self.0.write(), table.collect());
        drop(before);
    }
}

impl Routes {
    pub fn find(&self, spec: &Spec) -> Option<Arc<Py<Route>>> {
        let table = self.0.read();
        let versions = table.get(spec.name.bytes()?)?;
        let signatures = versions.by_number.get(&spec.version.unwrap_or(versions.latest))?;
        let signature = if spec.signature.left() == 0 { DEFAULT_SIGNATURE } else { spec.signature.bytes()? };
        signatures.get(signature).cloned()
    }
}

impl Route {
    pub fn key(&self, tensors: &[Tensor]) -> Key {
        if self.one_shape {
            return Key::Any;
        }
        let shapes = tensors.iter().flat_map(|tensor| std::iter::once(tensor.inner.len()).chain(tensor.inner.clone()));
        Key::Shapes(shapes.collect())
    }

    /// Counts calls that have ended with an answer.
    pub fn answered(&self, py: Python<'_>, seconds: impl Iterator<Item = f64>) -> PyResult<()> {
        self.answered.bind(py).call1((self.tally(seconds),)).map(|_| ())
    }

    /// Counts calls that have ended with this error, and says how they end.
    pub fn failed(
        &self,
        py: Python<'_>,
        error: &Bound<'_, PyAny>,
        seconds: impl Iterator<Item = f64>,
    ) -> PyResult<Status> {
        let (tally, total) = self.tally(seconds);
        let (code, text): (u8, String) = self.failed.bind(py).call1((error, tally, total))?.extract()?;
        Ok(Status::new(code, text))
    }

    /// How many latencies fall into which bucket, and their sum in microseconds.
    fn tally(&self, seconds: impl Iterator<Item = f64>) -> (Vec<(usize, usize)>, f64) {
        let (mut tally, mut total): (Vec<(usize, usize)>, f64) = (Vec::new(), 0.0);
        for micros in seconds.map(|each| each * 1e6) {
            total += micros;
            let bucket = self.bounds.partition_point(|bound| *bound < micros);
            match tally.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, count)) => *count += 1,
                None => tally.push((bucket, 1)),
            }
        }
        (tally, total)
    }

    /// How a call ends that found the queue full.
    pub fn full(&self, reason: &str) -> Status {
        Status::new(self.full.0, self.full.1.replace("{}", reason))
    }

    pub fn aliases(&self) -> impl Iterator<Item = (&str, Dtype)> {
        // They came as text.
        self.inputs.iter().map(|input| (std::str::from_utf8(&input.alias).unwrap_or_default(), input.dtype))
    }
}

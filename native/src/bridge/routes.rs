//! Where plain requests go: by model, by version, by signature.

use std::sync::Arc;

use parking_lot::RwLock;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::lane::Lane;
use super::signature::{Counter, Signature};
use crate::predict::{Format, Input, Spec};

const DEFAULT_SIGNATURE: &[u8] = b"serving_default";

/// One signature of one version, and the lane that its tasks wait in.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Clone)]
pub struct Route {
    pub signature: Arc<Signature>,
    pub lane: Lane,
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
        let inputs = inputs.into_iter().map(input).collect::<PyResult<Vec<_>>>()?;
        let signature = Signature {
            one_shape: inputs.iter().all(|input| input.inner.iter().all(Option::is_some)),
            inputs,
            max_rows,
            max_send,
            format: Format::new(name, version, signature, as_content),
            full,
            counter: Counter { bounds, answered, failed },
        };
        Ok(Self { signature: Arc::new(signature), lane: lane.get().clone() })
    }
}

fn input((alias, dtype, inner): (String, u64, Vec<Option<usize>>)) -> PyResult<Input> {
    let wrong = format!("{alias} has no plain dtype: {dtype}");
    Input::new(alias, dtype, inner).ok_or_else(|| PyValueError::new_err(wrong))
}

type Signatures = FxHashMap<Vec<u8>, Route>;

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
                (number, routes.into_iter().map(|(name, route)| (name.into_bytes(), route.get().clone())).collect())
            });
            (name.into_bytes(), Versions { latest, by_number: by_number.collect() })
        });
        let before = std::mem::replace(&mut *self.0.write(), table.collect());
        drop(before);
    }
}

impl Routes {
    /// Where a plain request for this model, version and signature goes; None where it is not plain after all.
    pub fn find(&self, spec: &Spec) -> Option<Route> {
        let table = self.0.read();
        let versions = table.get(spec.name.bytes()?)?;
        let signatures = versions.by_number.get(&spec.version.unwrap_or(versions.latest))?;
        let signature = if spec.signature.left() == 0 { DEFAULT_SIGNATURE } else { spec.signature.bytes()? };
        signatures.get(signature).cloned()
    }
}

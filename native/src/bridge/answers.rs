//! The answers of one batch: its outputs, encoded for each task, counted and sent.

use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::buffer::Buffer;
use super::python;
use super::signature::Signature;
use super::task::NativeTask;
use crate::predict::Output;
use crate::protobuf::Dtype;

/// The most bytes that the answers of a batch are written into together.
const SHARED: usize = 64 * 1024;

/// About what an answer has beside its values.
const ENVELOPE: usize = 128;

/// One output of the backend.
pub struct Array {
    alias: String,
    dtype: Dtype,
    buffer: Buffer,
    whole: bool,
    /// Whether it has no dimensions: it is held as one of a single dimension.
    scalar: bool,
}

impl Array {
    /// Of so many rows; without a number, of any shape, and for one task alone.
    ///
    /// Does not trust `array.shape`: the shape of the buffer, which is read later, counts.
    pub fn new(
        py: Python<'_>,
        alias: &Bound<'_, PyAny>,
        array: Bound<'_, PyAny>,
        rows: Option<usize>,
    ) -> PyResult<Self> {
        let scalar = rows.is_none() && array.getattr("ndim")?.extract::<usize>()? == 0;
        let buffer =
            Buffer::any(&array).or_else(|_| Buffer::any(&python::names(py)?.contiguous.bind(py).call1((&array,))?))?;
        let dtype = buffer.dtype().ok_or_else(|| {
            PyTypeError::new_err(format!("output {alias} is of a dtype that its signature does not declare"))
        })?;
        let held = buffer.shape().first();
        if rows.is_some() && held != rows.as_ref() {
            return Err(PyTypeError::new_err(format!("output {alias} holds {held:?} rows, expected {rows:?}")));
        }
        let scalar = scalar && buffer.shape() == [1];
        Ok(Self { alias: alias.cast::<PyString>()?.to_string(), dtype, buffer, whole: rows.is_none(), scalar })
    }

    pub fn output(&self) -> Output<'_> {
        let shape = if self.scalar { &[] } else { self.buffer.shape() };
        let bytes = self.buffer.bytes();
        Output { alias: &self.alias, dtype: self.dtype, shape, bytes, whole: self.whole }
    }
}

/// The answers of one batch, which are delivered as if they were one task's.
#[pyclass(frozen, module = "headrace_native")]
pub struct Answers {
    tasks: Mutex<Vec<NativeTask>>,
}

#[pymethods]
impl Answers {
    /// Counts them, so that whoever has an answer finds it counted, and sends them.
    fn deliver(&self, py: Python<'_>, _tasks: &Bound<'_, PyAny>) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.retain_mut(|task| task.call.claim());
        count(py, &tasks);
        py.detach(|| tasks.into_iter().for_each(|task| task.call.send()));
    }
}

/// Counts tasks by who counts those of their protocol; they are of one signature.
fn count(py: Python<'_>, tasks: &[NativeTask]) {
    let mut counted: Vec<&Arc<Signature>> = Vec::new(); // one for each protocol
    for signature in tasks.iter().map(|task| &task.signature) {
        if counted.iter().any(|known| Arc::ptr_eq(known, signature)) {
            continue;
        }
        counted.push(signature);
        let own = tasks.iter().filter(|task| Arc::ptr_eq(&task.signature, signature));
        if let Err(error) = signature.counter.answered(py, own.map(|task| (task.rows, task.seconds()))) {
            error.write_unraisable(py, None);
        }
    }
}

impl Answers {
    /// Encodes every task's rows of the arrays, from the place on that stands beside the task.
    pub fn of(mut tasks: Vec<(usize, NativeTask)>, arrays: &[Array]) -> Self {
        let outputs: Vec<_> = arrays.iter().map(Array::output).collect();
        // A client that does not read its answer keeps all of the bytes that were written with it.
        let values: usize = outputs.iter().map(|output| output.bytes.len()).sum();
        let mut out = BytesMut::with_capacity(SHARED.min(values + ENVELOPE * tasks.len()));
        for (start, task) in &mut tasks {
            task.encode(&outputs, *start, &mut out);
        }
        Self { tasks: Mutex::new(tasks.into_iter().map(|(_, task)| task).collect()) }
    }
}

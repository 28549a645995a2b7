//! What is asked of `headrace_batching`: its classes, its errors, and with them its texts.

use pyo3::call::PyCallArgs;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::queue::Refusal;
use crate::tensor::Dtype;

/// Calls something by the names of its module and its own.
pub fn call<'py>(
    py: Python<'py>,
    module: &str,
    name: &str,
    arguments: impl PyCallArgs<'py>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import(module)?.getattr(name)?.call1(arguments)
}

/// The exception that says why a task was not put.
pub fn refusal(py: Python<'_>, refusal: Refusal) -> PyResult<PyErr> {
    const ERRORS: &str = "headrace_batching.errors";
    let error = match refusal {
        Refusal::Closed => call(py, ERRORS, "Closed", ())?,
        Refusal::Full(reason) => call(py, ERRORS, "QueueFull", (reason,))?,
    };
    Ok(PyErr::from_value(error))
}

/// A `headrace_batching.batch.Batch`.
pub fn batch<'py>(
    py: Python<'py>,
    pieces: &Bound<'py, PyList>,
    options: &Bound<'py, PyAny>,
    batched: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let named = PyDict::new(py);
    named.set_item("batched", batched)?;
    py.import("headrace_batching.batch")?.getattr("Batch")?.call((pieces, options), Some(&named))
}

/// numpy's dtype of that name.
pub fn dtype(py: Python<'_>, dtype: Dtype) -> PyResult<Bound<'_, PyAny>> {
    call(py, "numpy", "dtype", (dtype.name(),))
}

/// The same array, copied where its rows do not follow one another.
pub fn contiguous<'py>(py: Python<'py>, array: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    call(py, "numpy", "ascontiguousarray", (array,))
}

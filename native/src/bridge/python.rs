//! Imports from `headrace_batching.bridge`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::shared::Shared;
use crate::buffer::Buffer;
use crate::protobuf::Dtype;

/// The module's attributes that are used here.
#[derive(FromPyObject)]
pub struct Names {
    #[pyo3(attribute("Batch"))]
    batch: Py<PyAny>,
    #[pyo3(attribute("CancelledError"))]
    pub cancelled: Py<PyAny>,
    #[pyo3(attribute("CallerExhausted"))]
    pub caller_exhausted: Py<PyAny>,
    #[pyo3(attribute("Closed"))]
    pub closed: Py<PyAny>,
    #[pyo3(attribute("DeadlineExceeded"))]
    pub deadline_exceeded: Py<PyAny>,
    #[pyo3(attribute("Formed"))]
    pub formed: Py<PyAny>,
    #[pyo3(attribute("Lock"))]
    pub lock: Py<PyAny>,
    #[pyo3(attribute("ObjectiveMissed"))]
    pub objective_missed: Py<PyAny>,
    #[pyo3(attribute("Piece"))]
    pub piece: Py<PyAny>,
    #[pyo3(attribute("QueueFull"))]
    pub queue_full: Py<PyAny>,
    #[pyo3(attribute("TimedOut"))]
    pub timed_out: Py<PyAny>,
    #[pyo3(attribute("Turn"))]
    pub turn: Py<PyAny>,
    #[pyo3(attribute("WeakValueDictionary"))]
    pub weak_values: Py<PyAny>,
    pub array: Py<PyAny>,
    #[pyo3(attribute("ascontiguousarray"))]
    pub contiguous: Py<PyAny>,
    pub check_outputs: Py<PyAny>,
    pub deliver: Py<PyAny>,
    dtype: Py<PyAny>,
    pub give: Py<PyAny>,
    pub monotonic: Py<PyAny>,
    pub pad: Py<PyAny>,
    pub pad_into: Py<PyAny>,
    pub rows_between: Py<PyAny>,
    pub string_array: Py<PyAny>,
}

/// The module's attributes, looked up once.
pub fn names(py: Python<'_>) -> PyResult<&'static Names> {
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || module(py)?.extract())
}

/// The current values of the constants that Python and Rust share.
pub fn shared(py: Python<'_>) -> PyResult<Shared> {
    module(py)?.getattr("SHARED")?.extract()
}

fn module(py: Python<'_>) -> PyResult<Bound<'_, PyModule>> {
    py.import("headrace_batching.bridge")
}

/// Runs a function, and turns a panic in it into an exception that `except Exception` catches. The interrupted work is
/// lost; the panic's message is on stderr.
pub fn catch_panic<T>(run: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| PyRuntimeError::new_err("headrace-native has panicked: this is a bug"))
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
    names(py)?.batch.bind(py).call((pieces, options), Some(&named))
}

/// The size of a list that takes longer to create than an array of the same numbers.
const LONG: usize = 8;

/// Numbers as an `array.array`, whose type has this code, or as a list if there are few. `bytes_of` returns a number's
/// bytes in memory.
pub fn sequence<'py, T: Copy + IntoPyObject<'py>>(
    py: Python<'py>,
    code: &str,
    numbers: &[T],
    bytes_of: impl Fn(T) -> [u8; 8],
) -> PyResult<Bound<'py, PyAny>> {
    if numbers.len() < LONG {
        return Ok(PyList::new(py, numbers.iter().copied())?.into_any());
    }
    names(py)?.array.bind(py).call1((code, column(py, numbers, bytes_of)))
}

/// Numbers as they are in memory, one after the other. `bytes_of` returns a number's bytes in memory.
pub fn column<'py, T: Copy>(py: Python<'py>, numbers: &[T], bytes_of: impl Fn(T) -> [u8; 8]) -> Bound<'py, PyBytes> {
    let mut bytes = Vec::with_capacity(8 * numbers.len());
    numbers.iter().for_each(|number| bytes.extend_from_slice(&bytes_of(*number)));
    PyBytes::new(py, &bytes)
}

/// numpy's dtype of that name, looked up once.
pub fn dtype(py: Python<'_>, dtype: Dtype) -> PyResult<&Bound<'_, PyAny>> {
    static FOUND: [PyOnceLock<Py<PyAny>>; Dtype::COUNT] = [const { PyOnceLock::new() }; Dtype::COUNT];
    let look_up = || names(py)?.dtype.call1(py, (dtype.name(),));
    FOUND[dtype as usize].get_or_try_init(py, look_up).map(|found| found.bind(py))
}

/// An array of this shape, created by `empty`, into which an input is to be joined, and the array's memory.
pub fn array_to_join_in<'py>(
    py: Python<'py>,
    empty: &Bound<'py, PyAny>,
    shape: &[usize],
    element: Dtype,
) -> PyResult<(Bound<'py, PyAny>, Buffer)> {
    // numpy gives no access to the memory of an array without dimensions.
    let of_memory = if shape.is_empty() { &[1] } else { shape };
    let array = empty.call1((PyTuple::new(py, of_memory)?, dtype(py, element)?))?;
    let buffer = Buffer::to_join_in(&array, of_memory, element)?;
    let array = if shape.is_empty() { array.call_method1("reshape", (PyTuple::empty(py),))? } else { array };
    Ok((array, buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error() {
        assert!(catch_panic(|| 7).is_ok_and(|seven| seven == 7));
        assert!(catch_panic(|| panic!("as it must")).is_err());
    }
}

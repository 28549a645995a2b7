//! What is asked of `headrace_batching`: its classes, its errors, and with them its texts.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::call::PyCallArgs;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList};

use crate::protobuf::Dtype;
use crate::queue::Refusal;

/// Something of Python's that is looked up once.
pub struct Name {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<Py<PyAny>>,
}

impl Name {
    const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, found: PyOnceLock::new() }
    }

    pub fn call<'py>(&self, py: Python<'py>, arguments: impl PyCallArgs<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.get(py)?.call1(arguments)
    }

    fn get<'py>(&self, py: Python<'py>) -> PyResult<&Bound<'py, PyAny>> {
        let look_up = || Ok::<_, PyErr>(py.import(self.module)?.getattr(self.name)?.unbind());
        self.found.get_or_try_init(py, look_up).map(|found| found.bind(py))
    }
}

pub static CANCELLED: Name = Name::new("concurrent.futures", "CancelledError");
pub static CHECK_OUTPUTS: Name = Name::new("headrace_batching.batch", "check_outputs");
pub static CONTIGUOUS: Name = Name::new("numpy", "ascontiguousarray");
pub static DEADLINE_EXCEEDED: Name = Name::new("headrace_batching.errors", "DeadlineExceeded");
pub static DELIVER: Name = Name::new("headrace_batching.batch", "deliver");
pub static FORMED: Name = Name::new("headrace_batching.queue", "Formed");
pub static GIVE: Name = Name::new("headrace_batching.batch", "give");
pub static PIECE: Name = Name::new("headrace_batching.task", "Piece");
pub static QUEUE_FULL: Name = Name::new("headrace_batching.errors", "QueueFull");
pub static ROWS_BETWEEN: Name = Name::new("headrace_batching.batch", "rows_between");
pub static TIMED_OUT: Name = Name::new("concurrent.futures", "TimeoutError");
pub static TURN: Name = Name::new("headrace_batching.queue", "Turn");
static BATCH: Name = Name::new("headrace_batching.batch", "Batch");
static CLOSED: Name = Name::new("headrace_batching.errors", "Closed");
static DTYPE: Name = Name::new("numpy", "dtype");

/// Runs something, and turns a panic in it into an exception that `except Exception` sees. What the panic interrupted is
/// lost; its message is on stderr.
pub fn catch_panic<T>(run: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| PyRuntimeError::new_err("headrace-native has panicked: this is a bug"))
}

/// The exception that says why a task was not put.
pub fn refusal(py: Python<'_>, refusal: Refusal) -> PyResult<PyErr> {
    let error = match refusal {
        Refusal::Closed => CLOSED.call(py, ())?,
        Refusal::Full(reason) => QUEUE_FULL.call(py, (reason,))?,
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
    BATCH.get(py)?.call((pieces, options), Some(&named))
}

/// numpy's dtype of that name, looked up once.
pub fn dtype(py: Python<'_>, dtype: Dtype) -> PyResult<&Bound<'_, PyAny>> {
    static FOUND: [PyOnceLock<Py<PyAny>>; Dtype::COUNT] = [const { PyOnceLock::new() }; Dtype::COUNT];
    let look_up = || DTYPE.call(py, (dtype.name(),)).map(Bound::unbind);
    FOUND[dtype as usize].get_or_try_init(py, look_up).map(|found| found.bind(py))
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

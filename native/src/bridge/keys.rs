//! The keys that must be equal for two tasks from Python to share a batch, in the form that the queue compares.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::python::names;
use crate::queue::{self, Key};

/// Python's keys that are not shapes, each with a token that exists while a task with that key waits.
pub struct Keys(Py<PyAny>);

impl Keys {
    pub fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self(names(py)?.weak_values.call0(py)?))
    }

    /// Converts a key. `()` and tuples of shapes are converted as they are; any other key is represented by the number
    /// of a token, which exists while the key is used.
    pub fn key(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Key> {
        if let Ok(shapes) = key.extract::<Vec<Vec<usize>>>()
            && key.is_instance_of::<PyTuple>()
        {
            return Ok(if shapes.is_empty() { Key::Any } else { Key::Shapes(flat(&shapes)) });
        }
        let keys = self.0.bind(py);
        let token = Bound::new(py, Token)?;
        let token = keys.call_method1("setdefault", (key, token))?;
        Ok(Key::Other(queue::Token(Arc::new(token.unbind()))))
    }
}

fn flat(shapes: &[Vec<usize>]) -> Vec<usize> {
    shapes.iter().flat_map(|shape| std::iter::once(shape.len()).chain(shape.iter().copied())).collect()
}

/// Represents one of Python's keys as long as a task with that key waits.
#[pyclass(frozen, weakref, module = "headrace_native")]
struct Token;

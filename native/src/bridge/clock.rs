//! The clock of a queue, in seconds: Python's monotonic clock, or a Python function.

use std::time::Instant;

use pyo3::prelude::*;

use super::python::names;

/// The clock: a function, or Python's monotonic clock. In seconds.
pub enum Clock {
    Function(Py<PyAny>),
    Monotonic { then: Instant, reading: f64 },
}

impl Clock {
    pub fn new(py: Python<'_>, function: Option<Py<PyAny>>) -> PyResult<Self> {
        match function {
            Some(function) => Ok(Self::Function(function)),
            None => {
                let reading = names(py)?.monotonic.bind(py).call0()?.extract()?;
                Ok(Self::Monotonic { then: Instant::now(), reading })
            }
        }
    }

    /// The current time. Must not be called while the queue is locked.
    pub fn now(&self) -> f64 {
        self.at(Instant::now())
    }

    pub fn at(&self, instant: Instant) -> f64 {
        match self {
            Self::Monotonic { then, reading } => reading + instant.saturating_duration_since(*then).as_secs_f64(),
            Self::Function(function) => Python::attach(|py| {
                let now = function.bind(py).call0().and_then(|now| now.extract());
                now.unwrap_or_else(|error| {
                    error.write_unraisable(py, None);
                    0.0
                })
            }),
        }
    }
}

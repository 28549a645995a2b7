//! The places for runs in worker processes that no run has taken.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyList};

use super::exchange::Exchange;

/// A free place: a `headrace_server.processes.keeper.Place`, and its exchange.
pub struct Free {
    pub place: Py<PyAny>,
    pub exchange: Py<Exchange>,
}

/// The free places. Any thread.
#[pyclass(frozen, module = "headrace_native")]
pub struct FreePlaces {
    free: Mutex<Vec<Free>>,
    watched: AtomicBool,
}

#[pymethods]
impl FreePlaces {
    #[new]
    fn new() -> Self {
        Self { free: Mutex::default(), watched: AtomicBool::new(false) }
    }

    #[getter]
    fn get_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst)
    }

    #[setter]
    fn set_watched(&self, watched: bool) {
        self.watched.store(watched, Ordering::SeqCst);
    }

    fn append(&self, place: &Bound<'_, PyAny>) -> PyResult<()> {
        let exchange = place.getattr("exchange")?.cast_into::<Exchange>()?.unbind();
        self.free.lock().push(Free { place: place.clone().unbind(), exchange });
        Ok(())
    }

    fn pop(&self) -> PyResult<Py<PyAny>> {
        let free = self.free.lock().pop();
        free.map(|free| free.place).ok_or_else(|| PyIndexError::new_err("there is no free place"))
    }

    fn remove(&self, place: &Bound<'_, PyAny>) -> PyResult<()> {
        let removed = {
            let mut free = self.free.lock();
            free.iter().position(|other| other.place.is(place)).map(|index| free.remove(index))
        };
        removed.map(drop).ok_or_else(|| PyValueError::new_err("the place is not free"))
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        let places: Vec<_> = self.free.lock().iter().map(|free| free.place.clone_ref(py)).collect();
        PyList::new(py, places)?.try_iter()
    }
}

impl FreePlaces {
    pub fn take(&self) -> Option<Free> {
        self.free.lock().pop()
    }

    /// Puts a place back; returns whether Python must be told.
    pub fn put(&self, free: Free) -> bool {
        let has_ended = |free: &Free| free.exchange.get().has_ended();
        let mut places = self.free.lock();
        places.push(free);
        // This check follows the `push`: so either it sees that the process has ended, or the code that drops the
        // places of an ended process finds this place.
        let tell = places.last().is_some_and(has_ended);
        drop(places);
        tell || self.watched.load(Ordering::SeqCst)
    }
}

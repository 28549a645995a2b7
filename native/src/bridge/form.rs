//! Turns what the queue hands out into Python objects: a batch of tasks, and the tasks whose deadline has passed.

use pyo3::prelude::*;
use pyo3::types::PyList;

use super::batch::Batch;
use super::lane::Lane;
use super::python;
use super::series::Series;
use super::task::Task;
use crate::queue::Piece;

/// Fails tasks whose deadline has passed: answers those that were decoded in Rust, and returns Python's with their
/// error set.
pub fn expire(py: Python<'_>, expired: Vec<Task>) -> PyResult<Bound<'_, PyList>> {
    let tasks = PyList::empty(py);
    for task in expired {
        match task {
            Task::Native(task) => {
                let error = python::names(py)?.deadline_exceeded.bind(py).call0()?;
                task.fail(py, &error)?;
            }
            Task::Python(task) => {
                let error = python::names(py)?.deadline_exceeded.bind(py).call0()?;
                task.bind(py).setattr("error", error)?;
                tasks.append(task)?;
            }
        }
    }
    Ok(tasks)
}

/// Counts the tasks that were decoded in Rust and whose callers have left. Python's tasks are counted in Python.
pub fn count_cancelled(py: Python<'_>, gone: Vec<Task>) -> PyResult<()> {
    for task in gone {
        if let Task::Native(mut task) = task
            && let Some(abandoned) = task.abandon(false)
        {
            abandoned.count(py)?;
        }
    }
    Ok(())
}

/// Makes the object for a batch: a Python object if all tasks came from Python, otherwise a `Series` if tasks run one
/// by one, or a `Batch`.
pub fn batch<'py>(py: Python<'py>, lane: &Lane, pieces: Vec<Piece<Task>>) -> PyResult<Bound<'py, PyAny>> {
    let (mut native, own) = (Vec::new(), PyList::empty(py));
    let mut arrivals = Vec::new();
    for piece in pieces {
        match piece.task {
            Task::Native(task) => {
                arrivals.push(piece.arrived);
                native.push(task);
            }
            Task::Python(task) => {
                own.append(python::names(py)?.piece.bind(py).call1((task, piece.start, piece.stop))?)?;
            }
        }
    }
    if own.is_empty() && !lane.batched() {
        let waiting = native.into_iter().zip(arrivals).collect();
        return Ok(Bound::new(py, Series::new(waiting, lane.clone()))?.into_any());
    }
    if native.is_empty() {
        return python::batch(py, &own, lane.options(py).bind(py), lane.batched());
    }
    Ok(Bound::new(py, Batch::new(native, own, lane.clone(), arrivals)?)?.into_any())
}

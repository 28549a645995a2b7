//! One scheduler's part of a queue, as Python has it and as the routes have it.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::clock::Clock;
use super::task::Task;
use super::tasks::Tasks;
use crate::queue::{Bounds, Entry, Key, LaneId, Refusal, Rules};

/// One scheduler's part of a queue.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Clone)]
pub struct Lane(Arc<LaneParts>);

struct LaneParts {
    tasks: Arc<Tasks>,
    id: LaneId,
    options: Py<PyAny>,
    /// Until the lane is closed: what it runs knows the lane, and would keep it alive.
    execute: Mutex<Option<Py<PyAny>>>,
    batched: bool,
    /// `Options.allowed_batch_sizes`.
    sizes: Vec<usize>,
}

#[pymethods]
impl Lane {
    #[getter]
    pub fn options(&self, py: Python<'_>) -> Py<PyAny> {
        self.0.options.clone_ref(py)
    }

    #[getter]
    pub fn execute(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.execute.lock().as_ref().map(|execute| execute.clone_ref(py))
    }

    #[getter]
    pub fn batched(&self) -> bool {
        self.0.batched
    }

    #[getter]
    pub fn rows(&self) -> usize {
        self.0.tasks.queue.lane_state(self.0.id).rows
    }

    #[getter]
    fn idle(&self) -> bool {
        self.0.tasks.queue.lane_state(self.0.id).idle
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.tasks.queue.lane_state(self.0.id).closed
    }
}

impl Lane {
    /// Opens a lane of the queue: `bounds` are those of one whose runs take about as long as the one before.
    pub fn open(
        tasks: &Arc<Tasks>,
        options: &Bound<'_, PyAny>,
        execute: Py<PyAny>,
        batched: bool,
        bounds: Option<Bounds>,
    ) -> PyResult<Self> {
        let rules = rules(options)?;
        let sizes = options.getattr("allowed_batch_sizes")?.extract()?;
        let id = tasks.queue.open_lane(rules, bounds);
        let (tasks, options) = (tasks.clone(), options.clone().unbind());
        Ok(Self(Arc::new(LaneParts { tasks, id, options, execute: Mutex::new(Some(execute)), batched, sizes })))
    }

    /// Its number in the queue.
    pub fn id(&self) -> LaneId {
        self.0.id
    }

    /// Lets go of what it runs.
    pub fn forget_execute(&self) {
        let execute = self.0.execute.lock().take();
        drop(execute);
    }

    /// Puts a task that was decoded here; whether a wake is due.
    pub fn put(&self, key: Key, entry: Entry<Task>, now: Instant) -> Result<bool, (Refusal, Task)> {
        self.0.tasks.queue.put(self.0.id, key, entry, self.0.tasks.clock.at(now))
    }

    /// As `Options.padded_rows`.
    pub fn padded_rows(&self, rows: usize) -> usize {
        self.0.sizes.iter().copied().find(|size| *size >= rows).unwrap_or(rows)
    }

    pub fn clock(&self) -> &Clock {
        &self.0.tasks.clock
    }
}

fn rules(options: &Bound<'_, PyAny>) -> PyResult<Rules> {
    let rules = Rules {
        execution_limit: options.getattr("execution_limit")?.extract()?,
        enqueued_limit: options.getattr("enqueued_limit")?.extract()?,
        timeout: options.getattr("timeout")?.extract()?,
        splitting: options.getattr("enable_large_batch_splitting")?.extract()?,
        running_limit: options.getattr("max_running_batches")?.extract::<Option<usize>>()?.unwrap_or(usize::MAX),
    };
    if rules.execution_limit == 0 {
        return Err(PyValueError::new_err("a batch of no rows holds nothing"));
    }
    if rules.running_limit == 0 {
        return Err(PyValueError::new_err("a lane of which no batch may run never ends"));
    }
    Ok(rules)
}

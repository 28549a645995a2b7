//! One scheduler's part of a queue, for Python and for the routes.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::clock::Clock;
use super::ended::Why;
use super::native_run::NativeRun;
use super::python::names;
use super::runner::RunnerFields;
use super::signature::Signature;
use super::task::Task;
use super::tasks::Tasks;
use crate::grpc::Status;
use crate::queue::{Bounds, Entry, Full, Key, LaneId, Refusal, Rules, Target};

/// One scheduler's part of a queue.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Clone)]
pub struct Lane(Arc<LaneParts>);

struct LaneParts {
    tasks: Arc<Tasks>,
    id: LaneId,
    options: Py<PyAny>,
    /// Runs a batch. The function refers to the lane and would keep the lane alive, so it is dropped when the lane is
    /// closed.
    execute: Mutex<Option<Py<PyAny>>>,
    batched: bool,
    /// The sizes to which batches are padded, in ascending order; any size is allowed if there are none.
    allowed_sizes: Vec<usize>,
    /// Runs the lane's batches without the interpreter; None if Python runs them. Dropped when the lane is closed.
    native_run: Mutex<Option<Arc<NativeRun>>>,
    /// The reason for refusing a task that could not be answered in time; empty without a latency objective.
    objective: String,
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

    /// Adds a task from Python; returns whether a batch thread must be woken.
    fn put(&self, py: Python<'_>, task: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Tasks { queue, clock, keys, .. } = &*self.0.tasks;
        let now = clock.now();
        let key = keys.key(py, &task.getattr("key")?)?;
        let entry = Entry::new(
            Task::Python(task.clone().unbind()),
            task.getattr("rows")?.extract()?,
            task.getattr("row_bytes")?.extract()?,
            task.getattr("deadline")?.extract()?,
            task.getattr("priority")?.extract()?,
        );
        task.setattr("arrived", now)?;
        queue.put(self.0.id, key, entry, now).or_else(|(refusal, _)| Err(self.exception(py, &refusal)?))
    }

    /// Sets the target by which the lane forms batches and accepts tasks: a `headrace_batching.latency.target.Target`.
    fn steer(&self, target: (f64, usize, f64, f64, f64)) -> PyResult<()> {
        let (wait, size, start_within, run_one, run_full) = target;
        let times = [wait, start_within, run_one, run_full];
        if size == 0 || times.into_iter().any(|seconds| seconds.is_nan() || seconds < 0.0) {
            let wrong = format!("{target:?} is not a target: its size must be at least 1, and its times at least 0");
            return Err(PyValueError::new_err(wrong));
        }
        self.0.tasks.queue.steer(self.0.id, Target { wait, size, start_within, run_one, run_full });
        Ok(())
    }

    /// The number of tasks refused because they could not be answered in time.
    #[getter]
    fn shed(&self) -> usize {
        self.0.tasks.queue.lane_state(self.0.id).shed
    }

    /// Runs the lane's batches without the interpreter, except those that need Python.
    fn run_natively(&self, runner: RunnerFields) {
        *self.0.native_run.lock() = Some(Arc::new(NativeRun::new(runner)));
        self.0.tasks.queue.detach(self.0.id);
    }

    /// Counts the session's runs that have not been counted yet.
    fn count_native_runs(&self, py: Python<'_>) {
        if let Some(native_run) = self.native_run() {
            native_run.counts.count(py);
        }
    }

    /// The number of batches that the session is running.
    #[getter]
    fn native_running(&self) -> usize {
        self.native_run().map_or(0, |native_run| native_run.running())
    }

    /// When the session's last run ended, in seconds on the queue's clock; 0 before the first.
    #[getter]
    fn native_ended(&self) -> f64 {
        self.native_run().map_or(0.0, |native_run| native_run.last_ended())
    }

    pub fn finish(&self) {
        self.0.tasks.queue.finish(self.0.id, self.0.tasks.clock.now());
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.tasks.queue.close_lane(self.0.id));
        let execute = self.0.execute.lock().take();
        drop(execute);
        let native_run = self.0.native_run.lock().take();
        if let Some(native_run) = native_run {
            native_run.counts.count(py);
        }
    }

    #[getter]
    pub fn closed(&self) -> bool {
        self.0.tasks.queue.lane_state(self.0.id).closed
    }
}

impl Lane {
    /// Opens a lane of the queue. Only a lane whose runs all take about the same time has `bounds`.
    pub fn open(
        tasks: &Arc<Tasks>,
        options: &Bound<'_, PyAny>,
        execute: Py<PyAny>,
        batched: bool,
        bounds: Option<Bounds>,
    ) -> PyResult<Self> {
        let id = tasks.queue.open_lane(rules(options, batched, tasks.shared.max_batch_bytes)?, bounds);
        let objective = options.getattr("latency_objective")?.extract()?;
        let allowed_sizes = if batched { options.getattr("allowed_batch_sizes")?.extract()? } else { Vec::new() };
        let (tasks, options, execute) = (tasks.clone(), options.clone().unbind(), Mutex::new(Some(execute)));
        let native_run = Mutex::default();
        Ok(Self(Arc::new(LaneParts { tasks, id, options, execute, batched, allowed_sizes, native_run, objective })))
    }

    /// Asks the server to count the runs of the lane's session, once that is due.
    pub fn count_later(&self, native_run: &Arc<NativeRun>) {
        self.0.tasks.due_counts.add(Arc::downgrade(native_run));
    }

    /// The runner of the lane's batches without the interpreter; None if Python runs them.
    pub fn native_run(&self) -> Option<Arc<NativeRun>> {
        self.0.native_run.lock().clone()
    }

    /// The lane's number in the queue.
    pub fn id(&self) -> LaneId {
        self.0.id
    }

    /// Adds a task that was decoded in Rust; returns whether a batch thread must be woken.
    pub fn put_native(&self, key: Key, entry: Entry<Task>, now: Instant) -> Result<bool, (Refusal, Task)> {
        self.0.tasks.queue.put(self.0.id, key, entry, self.0.tasks.clock.at(now))
    }

    /// The number of rows to which a batch of at least one row is padded, as `Options.padded_rows` says.
    pub fn padded_rows(&self, rows: usize) -> usize {
        self.0.allowed_sizes.iter().copied().find(|size| *size >= rows).unwrap_or(rows)
    }

    /// The exception that says why a task was not added.
    fn exception(&self, py: Python<'_>, refusal: &Refusal) -> PyResult<PyErr> {
        let names = names(py)?;
        let error = match refusal {
            Refusal::Closed => names.closed.bind(py).call0()?,
            Refusal::Full(Full::Objective) => names.objective_missed.bind(py).call1((&self.0.objective,))?,
            Refusal::Full(full) => names.queue_full.bind(py).call1((self.reason(full),))?,
        };
        Ok(PyErr::from_value(error))
    }

    /// The reason why the queue is full, in the text that Python uses.
    pub fn reason(&self, full: &Full) -> String {
        self.0.tasks.shared.reason(full, &self.0.objective)
    }

    /// The status of a call of this signature that finds its queue full, and the reason. `named` turns the reason into
    /// the text that is inserted into the signature's error.
    pub fn refusal(&self, full: &Full, signature: &Signature, named: impl FnOnce(&str) -> String) -> (Status, Why) {
        let (reason, why) = (self.reason(full), Why::of(full));
        (signature.full(&named(&reason), (why == Why::ObjectiveMissed).then_some(&reason)), why)
    }

    /// Records how long a run of one of its tasks took, in seconds, and the size of its inputs in bytes.
    pub fn ran(&self, seconds: f64, size: usize) {
        self.0.tasks.queue.ran(self.0.id, seconds, size);
    }

    pub fn clock(&self) -> &Clock {
        &self.0.tasks.clock
    }
}

fn rules(options: &Bound<'_, PyAny>, batched: bool, max_batch_bytes: usize) -> PyResult<Rules> {
    let most_running: Option<usize> = options.getattr("max_running_batches")?.extract()?;
    let rules = Rules {
        execution_limit: options.getattr("execution_limit")?.extract()?,
        enqueued_limit: options.getattr("enqueued_limit")?.extract()?,
        timeout: options.getattr("timeout")?.extract()?,
        splitting: options.getattr("enable_large_batch_splitting")?.extract()?,
        slots: most_running.map_or_else(|| options.getattr("num_batch_threads")?.extract(), Ok)?,
        running_limit: most_running.unwrap_or(usize::MAX),
        max_batch_bytes,
        one_by_one: !batched,
    };
    if rules.execution_limit == 0 {
        return Err(PyValueError::new_err("a batch must be allowed at least one row"));
    }
    if rules.running_limit == 0 {
        return Err(PyValueError::new_err("a lane must be allowed at least one running batch"));
    }
    Ok(rules)
}

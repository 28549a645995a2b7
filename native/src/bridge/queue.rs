//! The queue as Python has it: its own tasks and those that were decoded here, side by side.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::bridge::batch::Batch;
use crate::bridge::python;
use crate::predict::{self, Lapse};
use crate::queue::{self, Bounds, Key, LaneId, Piece, Refusal, Rules, Turn, Waiting, Waits};

/// A task of either kind.
pub enum Task {
    Native(Box<predict::Task>),
    /// A `headrace_batching.Task`. Only touched by who holds the interpreter lock.
    Python(Py<PyAny>),
}

impl Waits for Task {
    type Lapse = Lapse;

    fn gone(&mut self) -> bool {
        match self {
            Self::Native(task) => task.gone(),
            // Plain attributes, so that no other Python code runs while the queue is locked.
            Self::Python(task) => Python::attach(|py| gone(task.bind(py)).unwrap_or(false)),
        }
    }

    fn lapse(&mut self, late: bool) -> Option<Lapse> {
        match self {
            Self::Native(task) => task.lapse(late),
            // It has a handler that finds out, and counts it.
            Self::Python(_) => None,
        }
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Native(_) => None,
            Self::Python(task) => Some(Self::Python(Python::attach(|py| task.clone_ref(py)))),
        }
    }
}

fn gone(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(task.getattr("cancelled")?.is_truthy()?
        || !task.getattr("outputs")?.is_none()
        || !task.getattr("error")?.is_none())
}

/// Seconds: those of a function, or those of Python's monotonic clock.
pub enum Clock {
    Function(Py<PyAny>),
    Monotonic { then: Instant, reading: f64 },
}

impl Clock {
    fn new(py: Python<'_>, function: Option<Py<PyAny>>) -> PyResult<Self> {
        match function {
            Some(function) => Ok(Self::Function(function)),
            None => {
                let reading = py.import("time")?.getattr("monotonic")?.call0()?.extract()?;
                Ok(Self::Monotonic { then: Instant::now(), reading })
            }
        }
    }

    /// The time; not while the queue is locked.
    fn now(&self) -> f64 {
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

/// What the queue and its lanes share.
pub struct Core {
    pub queue: queue::Queue<Task>,
    pub clock: Clock,
}

impl Core {
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Tasks decoded here for which nobody waits any more, each once.
    pub fn lapsed(&self) -> Vec<Lapse> {
        self.queue.lapsed(self.clock.now())
    }
}

/// One scheduler's part of a queue.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Clone)]
pub struct Lane(Arc<LaneParts>);

struct LaneParts {
    core: Arc<Core>,
    id: LaneId,
    options: Py<PyAny>,
    /// Until it is closed: what it runs knows the lane, and would keep it alive.
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
    fn execute(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.execute.lock().as_ref().map(|execute| execute.clone_ref(py))
    }

    #[getter]
    pub fn batched(&self) -> bool {
        self.0.batched
    }

    #[getter]
    fn rows(&self) -> usize {
        self.0.core.queue.lane_state(self.0.id).rows
    }

    #[getter]
    fn idle(&self) -> bool {
        self.0.core.queue.lane_state(self.0.id).idle
    }

    #[getter]
    fn closed(&self) -> bool {
        self.0.core.queue.lane_state(self.0.id).closed
    }
}

impl Lane {
    /// Puts a task that was decoded here; whether a wake is due.
    pub fn put(&self, key: Key, waiting: Waiting<Task>, now: Instant) -> Result<bool, (Refusal, Task)> {
        self.0.core.queue.put(self.0.id, key, waiting, self.0.core.clock.at(now))
    }

    /// As `Options.padded_rows`.
    pub fn padded_rows(&self, rows: usize) -> usize {
        self.0.sizes.iter().copied().find(|size| *size >= rows).unwrap_or(rows)
    }

    pub fn clock(&self) -> &Clock {
        &self.0.core.clock
    }
}

/// The bounded queue that hands out batches of tasks: any thread puts, batch threads take.
#[pyclass(frozen, module = "headrace_native")]
pub struct Queue {
    pub core: Arc<Core>,
    lock: Py<PyAny>,
    clock: Py<PyAny>,
    keys: Py<PyAny>,
    lanes: Mutex<rustc_hash::FxHashMap<LaneId, Py<Lane>>>,
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (clock=None))]
    fn new(py: Python<'_>, clock: Option<Py<PyAny>>) -> PyResult<Self> {
        let monotonic = || py.import("time")?.getattr("monotonic").map(Bound::unbind);
        Ok(Self {
            core: Arc::new(Core {
                queue: queue::Queue::new(),
                clock: Clock::new(py, clock.as_ref().map(|c| c.clone_ref(py)))?,
            }),
            lock: py.import("threading")?.getattr("Lock")?.call0()?.unbind(),
            clock: clock.map_or_else(monotonic, Ok)?,
            keys: py.import("weakref")?.getattr("WeakValueDictionary")?.call0()?.unbind(),
            lanes: Mutex::default(),
        })
    }

    #[getter]
    fn lock(&self, py: Python<'_>) -> Py<PyAny> {
        self.lock.clone_ref(py)
    }

    #[getter]
    fn clock(&self, py: Python<'_>) -> Py<PyAny> {
        self.clock.clone_ref(py)
    }

    #[pyo3(signature = (options, execute, *, batched=true, steady=false))]
    fn lane(
        &self,
        py: Python<'_>,
        options: Py<PyAny>,
        execute: Py<PyAny>,
        batched: bool,
        steady: bool,
    ) -> PyResult<Py<Lane>> {
        let bounds = if steady { Some(bounds(py)?) } else { None };
        let id = self.core.queue.open_lane(rules(options.bind(py))?, bounds);
        let sizes = options.bind(py).getattr("allowed_batch_sizes")?.extract()?;
        let lane = Lane(Arc::new(LaneParts {
            core: self.core.clone(),
            id,
            sizes,
            options,
            execute: Mutex::new(Some(execute)),
            batched,
        }));
        let lane = Py::new(py, lane)?;
        self.lanes.lock().insert(id, lane.clone_ref(py));
        Ok(lane)
    }

    fn put(&self, py: Python<'_>, lane: &Bound<'_, Lane>, task: &Bound<'_, PyAny>) -> PyResult<bool> {
        let now = self.core.clock.now();
        let key = self.key(py, &task.getattr("key")?)?;
        let waiting = Waiting::new(
            Task::Python(task.clone().unbind()),
            task.getattr("rows")?.extract()?,
            task.getattr("row_bytes")?.extract()?,
            task.getattr("deadline")?.extract()?,
            task.getattr("priority")?.extract()?,
        );
        task.setattr("arrived", now)?;
        match self.core.queue.put(lane.get().0.id, key, waiting, now) {
            Ok(wake) => Ok(wake),
            Err((refusal, _)) => Err(python::refusal(py, refusal)?),
        }
    }

    #[getter]
    fn idle(&self) -> usize {
        self.core.queue.idle()
    }

    fn wake(&self) {
        self.core.wake();
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let more = py.detach(|| self.core.queue.wait(|| self.core.clock.now()));
            if !more {
                return Ok(None);
            }
            let turn = self.core.queue.turn(self.core.clock.now());
            if let Some(formed) = self.delivered(py, turn)? {
                return python::FORMED.call(py, formed).map(Some);
            }
        }
    }

    fn take_lone<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        self.lone(py)?.map(|formed| python::FORMED.call(py, formed)).transpose()
    }

    /// One look at the queue.
    fn turn<'py>(&self, py: Python<'py>, now: f64) -> PyResult<Bound<'py, PyAny>> {
        let turn = self.core.queue.turn(now);
        let (formed, expired, wake) = self.outcome(py, turn)?;
        let formed = formed.map(|formed| python::FORMED.call(py, formed)).transpose()?;
        python::TURN.call(py, (formed, expired, wake))
    }

    fn finish(&self, lane: &Bound<'_, Lane>) {
        self.core.queue.finish(lane.get().0.id, self.core.clock.now());
    }

    fn close_lane(&self, py: Python<'_>, lane: &Bound<'_, Lane>) {
        let id = lane.get().0.id;
        py.detach(|| self.core.queue.close_lane(id));
        self.lanes.lock().remove(&id);
        let execute = lane.get().0.execute.lock().take();
        drop(execute);
    }

    fn close(&self) {
        self.core.queue.close();
    }
}

impl Queue {
    /// Runs here and now what waits if that is one task, nothing else runs, and its lane's runs are quick. Not while the
    /// interpreter lock is held, nor any other.
    pub fn run_lone(&self) -> bool {
        let run = |py: Python<'_>| {
            self.run_lone_attached(py).unwrap_or_else(|error| {
                error.write_unraisable(py, None);
                true
            })
        };
        self.core.queue.is_lone(self.core.clock.now()) && Python::try_attach(run).unwrap_or(false)
    }

    fn run_lone_attached(&self, py: Python<'_>) -> PyResult<bool> {
        let Some((batch, lane)) = self.lone(py)? else { return Ok(false) };
        // A panic in there would come back as one here, and end every connection of this thread.
        let ended =
            python::sheltered(|| lane.get().execute(py).map_or(Ok(()), |run| run.call1(py, (batch,)).map(drop)));
        self.finish(&lane);
        if lane.get().rows() > 0 {
            self.wake(); // no thread was called for what came meanwhile if the lane was not free
        }
        ended.and_then(|ended| ended).map(|()| true)
    }

    /// The batch of a lone task, if there is one whose lane's runs are quick.
    fn lone<'py>(&self, py: Python<'py>) -> PyResult<Option<Formed<'py>>> {
        match self.core.queue.take_lone(self.core.clock.now()) {
            Some(turn) => self.delivered(py, turn),
            None => Ok(None),
        }
    }

    /// A turn's batch; its tasks that have expired are delivered.
    fn delivered<'py>(&self, py: Python<'py>, turn: Turn<Task>) -> PyResult<Option<Formed<'py>>> {
        let (formed, expired, _) = self.outcome(py, turn)?;
        if !expired.is_empty() {
            python::DELIVER.call(py, (expired,))?;
        }
        Ok(formed)
    }
}

/// A batch and its lane, of which Python makes a `headrace_batching.queue.Formed`.
type Formed<'py> = (Bound<'py, PyAny>, Bound<'py, Lane>);

type Outcome<'py> = (Option<Formed<'py>>, Bound<'py, PyList>, f64);

impl Queue {
    /// A turn's batch, the tasks that have expired and are to be delivered, and when to look again.
    fn outcome<'py>(&self, py: Python<'py>, turn: Turn<Task>) -> PyResult<Outcome<'py>> {
        let Turn { lane, pieces, expired, gone, wake, .. } = turn;
        count_cancelled(py, gone)?;
        let expired = expire(py, expired)?;
        let lane = lane.and_then(|id| self.lanes.lock().get(&id).map(|lane| lane.clone_ref(py).into_bound(py)));
        let Some(lane) = lane else { return Ok((None, expired, wake)) };
        let batch = batch(py, lane.get(), pieces)?;
        Ok((Some((batch, lane)), expired, wake))
    }

    /// `()` and tuples of shapes are read; another key is known by the number of a token that lives while it is used.
    fn key(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<Key> {
        if let Ok(shapes) = key.extract::<Vec<Vec<usize>>>()
            && key.is_instance_of::<PyTuple>()
        {
            return Ok(if shapes.is_empty() { Key::Any } else { Key::Shapes(flat(&shapes)) });
        }
        let keys = self.keys.bind(py);
        let token = Bound::new(py, Token)?;
        let token = keys.call_method1("setdefault", (key, token))?;
        Ok(Key::Other(queue::Token(Arc::new(token.unbind()))))
    }
}

fn flat(shapes: &[Vec<usize>]) -> Vec<usize> {
    shapes.iter().flat_map(|shape| std::iter::once(shape.len()).chain(shape.iter().copied())).collect()
}

/// Stands for one of Python's keys as long as a task of that key waits.
#[pyclass(frozen, weakref, module = "headrace_native")]
struct Token;

fn bounds(py: Python<'_>) -> PyResult<Bounds> {
    let policy = py.import("headrace_batching.policy")?;
    Ok(Bounds { quick: policy.getattr("QUICK")?.extract()?, slow: policy.getattr("SLOW")?.extract()? })
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

/// Answers the tasks that were decoded here, and returns those of Python with their error set.
fn expire(py: Python<'_>, expired: Vec<Task>) -> PyResult<Bound<'_, PyList>> {
    let tasks = PyList::empty(py);
    for task in expired {
        match task {
            Task::Native(task) => {
                let error = python::DEADLINE_EXCEEDED.call(py, ())?;
                let status = task.route.get().failed(py, &error, std::iter::once(task.seconds()))?;
                task.refuse(&status);
            }
            Task::Python(task) => {
                let error = python::DEADLINE_EXCEEDED.call(py, ())?;
                task.bind(py).setattr("error", error)?;
                tasks.append(task)?;
            }
        }
    }
    Ok(tasks)
}

/// Counts those of the tasks decoded here whose callers have left; Python's count themselves.
fn count_cancelled(py: Python<'_>, gone: Vec<Task>) -> PyResult<()> {
    for task in gone {
        if let Task::Native(mut task) = task
            && let Some(lapse) = task.lapse(false)
        {
            lapse.count(py)?;
        }
    }
    Ok(())
}

/// A batch of Python's tasks alone is Python's own; any other is ours.
fn batch<'py>(py: Python<'py>, lane: &Lane, pieces: Vec<Piece<Task>>) -> PyResult<Bound<'py, PyAny>> {
    let (mut native, own) = (Vec::new(), PyList::empty(py));
    let mut arrivals = Vec::new();
    for piece in pieces {
        match piece.task {
            Task::Native(task) => {
                arrivals.push(piece.arrived);
                native.push(*task);
            }
            Task::Python(task) => {
                own.append(python::PIECE.call(py, (task, piece.start, piece.stop))?)?;
            }
        }
    }
    if native.is_empty() {
        return python::batch(py, &own, lane.0.options.bind(py), lane.0.batched);
    }
    Ok(Bound::new(py, Batch::new(native, own, lane.clone(), arrivals)?)?.into_any())
}

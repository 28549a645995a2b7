//! The queue as Python sees it. It contains Python's tasks and those that were decoded in Rust.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyList;
use rustc_hash::FxHashMap;

use super::clock::Clock;
use super::due_counts::DueCounts;
use super::form;
use super::keys::Keys;
use super::lane::Lane;
use super::python;
use super::task::Task;
use super::tasks::Tasks;
use crate::queue::{self, Detached, LaneId, Turn};

/// The bounded queue that hands out batches of tasks: any thread may add tasks, and batch threads take them.
#[pyclass(frozen, module = "headrace_native")]
pub struct Queue {
    pub tasks: Arc<Tasks>,
    lock: Py<PyAny>,
    clock: Py<PyAny>,
    lanes: Mutex<Lanes>,
}

/// The lanes by number. Closed lanes are dropped whenever the number of open ones may have doubled, so that opening a
/// lane takes no longer with thousands of lanes than with a few.
#[derive(Default)]
struct Lanes {
    open: FxHashMap<LaneId, Py<Lane>>,
    swept_at: usize,
}

impl Lanes {
    fn insert(&mut self, id: LaneId, lane: Py<Lane>) {
        if self.open.len() >= self.swept_at {
            self.open.retain(|_, lane| !lane.get().closed());
            self.swept_at = 2 * self.open.len() + 1;
        }
        self.open.insert(id, lane);
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (clock=None))]
    fn new(py: Python<'_>, clock: Option<Py<PyAny>>) -> PyResult<Self> {
        let names = python::names(py)?;
        let tasks = Tasks {
            queue: queue::Queue::new(),
            clock: Clock::new(py, clock.as_ref().map(|clock| clock.clone_ref(py)))?,
            keys: Keys::new(py)?,
            shared: python::shared(py)?,
            due_counts: DueCounts::default(),
        };
        Ok(Self {
            tasks: Arc::new(tasks),
            lock: names.lock.call0(py)?,
            clock: clock.unwrap_or_else(|| names.monotonic.clone_ref(py)),
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
        let bounds = steady.then(|| self.tasks.shared.pace.bounds());
        let lane = Lane::open(&self.tasks, options.bind(py), execute, batched, bounds)?;
        let id = lane.id();
        let lane = Py::new(py, lane)?;
        self.lanes.lock().insert(id, lane.clone_ref(py));
        Ok(lane)
    }

    #[getter]
    fn idle(&self) -> usize {
        self.tasks.queue.idle()
    }

    fn wake(&self) {
        self.tasks.wake();
    }

    fn take<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        loop {
            let turn = match py.detach(|| self.wait()) {
                Due::Closed => return Ok(None),
                Due::Turn(turn) => turn,
                Due::Python => self.tasks.queue.turn(self.tasks.clock.now()),
            };
            if let Some(formed) = self.delivered(py, turn)? {
                return python::names(py)?.formed.bind(py).call1(formed).map(Some);
            }
        }
    }

    /// Looks at the queue once.
    fn turn<'py>(&self, py: Python<'py>, now: f64) -> PyResult<Bound<'py, PyAny>> {
        let turn = self.tasks.queue.turn(now);
        let (names, (formed, expired, wake)) = (python::names(py)?, self.outcome(py, turn)?);
        let formed = formed.map(|formed| names.formed.bind(py).call1(formed)).transpose()?;
        names.turn.bind(py).call1((formed, expired, wake))
    }

    fn close(&self) {
        self.tasks.queue.close();
    }
}

impl Queue {
    /// Runs all waiting tasks on this thread if they form one batch of at most `most` tasks, no batch runs, and the
    /// runs of their lane are fast; returns the number of tasks that have been run. Must not be called while the
    /// interpreter lock, or any other lock, is held.
    pub fn run_brief(&self, most: usize) -> usize {
        if let Some(ran) = self.run_brief_detached(most) {
            return ran;
        }
        let run = |py: Python<'_>| counted(py, self.run_brief_attached(py, most));
        let is_brief = self.tasks.queue.is_brief(self.tasks.clock.now(), most);
        if is_brief { Python::try_attach(run).unwrap_or(0) } else { 0 }
    }

    /// Like `run_brief` for a batch that runs without the interpreter; None if there is no such batch.
    fn run_brief_detached(&self, most: usize) -> Option<usize> {
        let turn = self.tasks.queue.take_brief_detached(self.tasks.clock.now(), most)?;
        let (tasks, lane) = (turn.pieces.len(), self.lane_of(&turn));
        if let Some(turn) = self.run_natively(turn) {
            Python::try_attach(|py| counted(py, self.run_attached(py, turn)));
        }
        if lane.is_some_and(|lane| lane.rows() > 0) {
            self.wake(); // tasks that arrived while the lane was busy woke no thread
        }
        Some(tasks)
    }

    /// Runs batches without the interpreter until the queue is closed, or a batch is due that needs Python.
    fn wait(&self) -> Due {
        while self.tasks.queue.wait(|| self.tasks.clock.now()) {
            match self.tasks.queue.turn_detached(self.tasks.clock.now()) {
                Detached::Nothing => {}
                Detached::NeedsPython => return Due::Python,
                Detached::Turn(turn) => {
                    if let Some(turn) = self.run_natively(turn) {
                        return Due::Turn(turn);
                    }
                }
            }
        }
        Due::Closed
    }

    /// Runs and answers tasks without the interpreter. Returns what is left for Python: tasks that it must run, which
    /// still belong to the lane, or tasks that need not run.
    fn run_natively(&self, turn: Turn<Task>) -> Option<Turn<Task>> {
        let Some(lane) = self.lane_of(&turn) else { return Some(turn) };
        let Some(native_run) = lane.native_run() else { return Some(turn) };
        let left = native_run.run(&lane, turn);
        drop(native_run); // before `finish`, after which the lane may be closed: its session must not be kept alive
        match left {
            Some(turn) if !turn.pieces.is_empty() => Some(turn),
            left => {
                lane.finish();
                left.map(|turn| Turn { lane: None, ..turn })
            }
        }
    }

    fn lane_of(&self, turn: &Turn<Task>) -> Option<Lane> {
        turn.lane.and_then(|id| self.lanes.lock().open.get(&id).map(|lane| lane.get().clone()))
    }

    fn run_brief_attached(&self, py: Python<'_>, most: usize) -> PyResult<usize> {
        match self.tasks.queue.take_brief(self.tasks.clock.now(), most) {
            Some(turn) => self.run_attached(py, turn),
            None => Ok(0),
        }
    }

    /// Runs the batch of a turn here; returns the number of its tasks.
    fn run_attached(&self, py: Python<'_>, turn: Turn<Task>) -> PyResult<usize> {
        let Some((batch, lane)) = self.delivered(py, turn)? else { return Ok(0) };
        let tasks = batch.len()?;
        // A panic in Python would continue as a panic here, and end every connection of this thread.
        let ended =
            python::catch_panic(|| lane.get().execute(py).map_or(Ok(()), |run| run.call1(py, (batch,)).map(drop)));
        lane.get().finish();
        if lane.get().rows() > 0 {
            self.wake(); // tasks that arrived while the lane was busy woke no thread
        }
        ended.and_then(|ended| ended).map(|()| tasks)
    }

    /// The batch of one look at the queue. Delivers the tasks that have expired.
    fn delivered<'py>(&self, py: Python<'py>, turn: Turn<Task>) -> PyResult<Option<Formed<'py>>> {
        let (formed, expired, _) = self.outcome(py, turn)?;
        if !expired.is_empty() {
            python::names(py)?.deliver.call1(py, (expired,))?;
        }
        Ok(formed)
    }
}

/// The number of tasks that have been run. If there was an error instead, reports it and returns 1, however many tasks
/// were taken from the queue.
fn counted(py: Python<'_>, ran: PyResult<usize>) -> usize {
    ran.unwrap_or_else(|error| {
        error.write_unraisable(py, None);
        1
    })
}

/// The result of waiting for a batch that needs Python.
enum Due {
    /// There will be none: the queue is closed and empty.
    Closed,
    /// A batch that needs Python is due, and has not been taken.
    Python,
    /// A batch that has been taken, and turned out to need Python.
    Turn(Turn<Task>),
}

/// A batch and its lane, from which Python makes a `headrace_batching.queue.Formed`.
type Formed<'py> = (Bound<'py, PyAny>, Bound<'py, Lane>);

type Outcome<'py> = (Option<Formed<'py>>, Bound<'py, PyList>, f64);

impl Queue {
    /// The result of one look at the queue: the batch, the tasks that have expired and are to be delivered, and when to
    /// look again.
    fn outcome<'py>(&self, py: Python<'py>, turn: Turn<Task>) -> PyResult<Outcome<'py>> {
        let Turn { lane, pieces, expired, gone, wake, .. } = turn;
        form::count_cancelled(py, gone)?;
        let expired = form::expire(py, expired)?;
        let lane = lane.and_then(|id| self.lanes.lock().open.get(&id).map(|lane| lane.clone_ref(py).into_bound(py)));
        let Some(lane) = lane else { return Ok((None, expired, wake)) };
        let batch = form::batch(py, lane.get(), pieces)?;
        Ok((Some((batch, lane)), expired, wake))
    }
}

//! Counts runs that Python has not seen, until Python takes the counts.

use std::sync::Arc;

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::python::column;
use super::signature::{Signature, Tally};
use super::task::{NativeTask, Waiting};

/// When this many runs have not been counted yet, the server is asked to count them.
const SOME: usize = 256;

/// When this many runs have not been counted yet, the thread that ran the last of them counts them itself: there is no
/// server to count them, or its event loop is stuck.
const MANY: usize = 16_384;

/// Successful runs as columns, since Python needs a microsecond to look at a single run. Times are in seconds on the
/// queue's clock.
#[derive(Default)]
pub struct Runs {
    /// When each run began, when its inputs had been joined, when its outputs had been computed, and when it ended.
    times: Vec<[f64; 4]>,
    /// The number of tasks of each run.
    tasks: Vec<i64>,
    /// The number of rows of each run, padding included.
    padded: Vec<i64>,
    /// The arrival time of each task, run by run.
    arrivals: Vec<f64>,
    /// The number of rows of each task, in the same order.
    sizes: Vec<i64>,
}

impl Runs {
    /// Adds a run of these tasks, padded to this many rows.
    pub fn add(&mut self, times: [f64; 4], tasks: &[Waiting], padded: usize) {
        self.times.push(times);
        self.tasks.push(tasks.len() as i64);
        self.padded.push(padded as i64);
        self.arrivals.extend(tasks.iter().map(|(_, arrived)| arrived));
        self.sizes.extend(tasks.iter().map(|(task, _)| task.rows as i64));
    }

    fn append(&mut self, other: &mut Self) {
        self.times.append(&mut other.times);
        self.tasks.append(&mut other.tasks);
        self.padded.append(&mut other.padded);
        self.arrivals.append(&mut other.arrivals);
        self.sizes.append(&mut other.sizes);
    }

    fn len(&self) -> usize {
        self.times.len()
    }

    /// Each column's numbers as they are in memory.
    fn columns<'py>(&self, py: Python<'py>) -> [Bound<'py, PyBytes>; 5] {
        let counts = |numbers: &[i64]| column(py, numbers, i64::to_ne_bytes);
        let times = |numbers: &[f64]| column(py, numbers, f64::to_ne_bytes);
        [
            times(self.times.as_flattened()),
            counts(&self.tasks),
            counts(&self.padded),
            times(&self.arrivals),
            counts(&self.sizes),
        ]
    }
}

/// The answered calls of one signature, and, if rows are counted, the number of rows of each call.
struct Answered {
    signature: Arc<Signature>,
    tally: Tally,
    rows: Vec<usize>,
}

/// The runs of one lane that have not been counted yet. May be used on any thread.
pub struct Counts {
    waiting: Mutex<Uncounted>,
    /// Held while counts are passed to Python, whose code may call `count` again on the same thread.
    passing: ReentrantMutex<()>,
    /// Called with the columns of runs.
    tell: Py<PyAny>,
}

#[derive(Default)]
struct Uncounted {
    runs: Runs,
    answered: Vec<Answered>, // one for each protocol
    /// Whether the server has been asked to count these runs.
    known: bool,
}

impl Counts {
    pub fn new(tell: Py<PyAny>) -> Self {
        Self { waiting: Mutex::default(), passing: ReentrantMutex::new(()), tell }
    }

    /// Adds runs and their answered tasks.
    pub fn add(&self, runs: &mut Runs, tasks: &[NativeTask]) {
        let mut waiting = self.waiting.lock();
        waiting.runs.append(runs);
        for task in tasks {
            let counter = &task.signature.counter;
            let answered = waiting.of(&task.signature);
            counter.add(task.seconds(), &mut answered.tally);
            if counter.rows.is_some() {
                answered.rows.push(task.call.examples().unwrap_or(task.rows));
            }
        }
    }

    /// To be called after each run, without the interpreter lock. Returns whether the caller must now ask the server to
    /// count the runs. If very many runs wait to be counted, this function counts them itself.
    pub fn are_due(&self) -> bool {
        let (runs, known) = {
            let mut waiting = self.waiting.lock();
            let known = waiting.known;
            waiting.known = waiting.runs.len() >= SOME;
            (waiting.runs.len(), known)
        };
        if runs >= MANY {
            Python::try_attach(|py| self.count(py));
        }
        runs >= SOME && !known
    }

    /// Passes the counts to Python. If another thread is doing so, first waits for it, so that all earlier runs have
    /// been counted when this returns.
    pub fn count(&self, py: Python<'_>) {
        let _passing = self.pass(py);
        let Uncounted { runs, answered, .. } = std::mem::take(&mut *self.waiting.lock());
        let written = |counted: PyResult<()>| counted.unwrap_or_else(|error| error.write_unraisable(py, None));
        for Answered { signature, tally, rows } in answered {
            written(signature.counter.add_answered(py, tally, rows));
        }
        if runs.len() > 0 {
            let [times, tasks, padded, arrivals, sizes] = runs.columns(py);
            written(self.tell.bind(py).call1((times, tasks, padded, arrivals, sizes)).map(drop));
        }
    }

    fn pass(&self, py: Python<'_>) -> ReentrantMutexGuard<'_, ()> {
        loop {
            if let Some(passing) = self.passing.try_lock() {
                return passing;
            }
            // The other thread runs Python code, so it needs the interpreter lock.
            py.detach(|| drop(self.passing.lock()));
        }
    }
}

impl Uncounted {
    fn of(&mut self, signature: &Arc<Signature>) -> &mut Answered {
        let known = self.answered.iter().position(|known| Arc::ptr_eq(&known.signature, signature));
        let index = known.unwrap_or_else(|| {
            self.answered.push(Answered { signature: signature.clone(), tally: Tally::default(), rows: Vec::new() });
            self.answered.len() - 1
        });
        &mut self.answered[index]
    }
}

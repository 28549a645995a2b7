//! Counts runs that Python has not seen, until Python takes the counts.

use std::sync::Arc;

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use pyo3::prelude::*;

use super::signature::{Signature, Tally};
use super::task::NativeTask;

/// When this many runs have not been counted yet, the server is asked to count them.
const SOME: usize = 256;

/// When this many runs have not been counted yet, the thread that ran the last of them counts them itself, since there
/// is no server, or its event loop is stuck.
const MANY: usize = 16_384;

/// When a run began, when its inputs had been joined, when its outputs had been computed, and when it ended, in seconds
/// on the queue's clock.
pub struct Times(pub [f64; 4]);

/// A successful run: its `Times`, when each of its tasks arrived, and the number of rows of each task.
type Run = (f64, f64, f64, f64, Vec<f64>, Vec<usize>);

/// The answered calls of one signature, and, if rows are counted, the number of rows of each call.
struct Answered {
    signature: Arc<Signature>,
    tally: Tally,
    rows: Vec<usize>,
}

/// The runs of one lane that have not been counted yet. May be used on any thread.
pub struct Counts {
    waiting: Mutex<Waiting>,
    /// Held while counts are passed to Python, whose code may call `count` again on the same thread.
    passing: ReentrantMutex<()>,
    /// Called with a list of runs.
    tell: Py<PyAny>,
}

#[derive(Default)]
struct Waiting {
    runs: Vec<Run>,
    answered: Vec<Answered>, // one for each protocol
    /// Whether the server has been asked to count these runs.
    known: bool,
}

impl Counts {
    pub fn new(tell: Py<PyAny>) -> Self {
        Self { waiting: Mutex::default(), passing: ReentrantMutex::new(()), tell }
    }

    /// Adds a run and its answered tasks.
    pub fn add(
        &self,
        Times([began, joined, computed, ended]): Times,
        arrivals: Vec<f64>,
        sizes: Vec<usize>,
        tasks: &[NativeTask],
    ) {
        let mut waiting = self.waiting.lock();
        waiting.runs.push((began, joined, computed, ended, arrivals, sizes));
        for task in tasks {
            let counter = &task.signature.counter;
            let answered = waiting.of(&task.signature);
            counter.add(task.seconds(), &mut answered.tally);
            if counter.rows.is_some() {
                answered.rows.push(task.call.examples().unwrap_or(task.rows));
            }
        }
    }

    /// Must be called after each run, without the interpreter lock. Returns whether the server must now be asked to
    /// count. If there are very many runs, counts them itself.
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
        let Waiting { runs, answered, .. } = std::mem::take(&mut *self.waiting.lock());
        let written = |counted: PyResult<()>| counted.unwrap_or_else(|error| error.write_unraisable(py, None));
        for Answered { signature, tally, rows } in answered {
            written(signature.counter.add_answered(py, tally, rows));
        }
        if !runs.is_empty() {
            written(self.tell.bind(py).call1((runs,)).map(drop));
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

impl Waiting {
    fn of(&mut self, signature: &Arc<Signature>) -> &mut Answered {
        let known = self.answered.iter().position(|known| Arc::ptr_eq(&known.signature, signature));
        let index = known.unwrap_or_else(|| {
            self.answered.push(Answered { signature: signature.clone(), tally: Tally::default(), rows: Vec::new() });
            self.answered.len() - 1
        });
        &mut self.answered[index]
    }
}

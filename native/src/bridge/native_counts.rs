//! Counts runs that Python has not seen, until Python takes the counts.

use std::sync::Arc;

use parking_lot::{Mutex, ReentrantMutex, ReentrantMutexGuard};
use pyo3::prelude::*;

use super::signature::{Signature, Tally};
use super::task::NativeTask;

/// The number of runs from which on the server has them counted.
const SOME: usize = 256;

/// The number of runs from which on the thread that has run the last of them counts them, since there is no server, or
/// its event loop is stuck.
const MANY: usize = 16_384;

/// The times at which a run began, had its inputs, had its outputs, and ended, in seconds on the queue's clock.
pub struct Times(pub [f64; 4]);

/// A successful run: its times, when each of its tasks arrived, and the rows of each.
type Run = (f64, f64, f64, f64, Vec<f64>, Vec<usize>);

/// The answered calls of one signature, and, if they are counted, their rows.
struct Answered {
    signature: Arc<Signature>,
    tally: Tally,
    rows: Vec<usize>,
}

/// The runs of one lane that have not been counted yet. May be used on any thread.
pub struct Counts {
    waiting: Mutex<Waiting>,
    /// Held while counts are passed on. Passing them on may look for more of them, on the same thread.
    passing: ReentrantMutex<()>,
    /// Called with a list of runs.
    tell: Py<PyAny>,
}

#[derive(Default)]
struct Waiting {
    runs: Vec<Run>,
    answered: Vec<Answered>, // one for each protocol
    /// Whether the server knows that there are some.
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

    /// To be called after a run; returns whether the server should count now. Counts if there are very many runs.
    /// Without the interpreter lock.
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

    /// Passes the counts on, and waits for another thread that does so: then all earlier runs have been counted.
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
            // The other thread runs Python code, and so needs the interpreter lock.
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

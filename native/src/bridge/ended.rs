//! Calls that have ended without Python; Python counts them in its metrics later.
//!
//! A client may leave, or its deadline may pass, while its task waits and no batch thread looks at it; and a full queue
//! refuses calls faster than Python could count them. While tasks wait, or after anything that `Activity` notes, the
//! server looks for such calls every 20 ms, and answers those whose deadline has passed. Python counts all of them when
//! it next takes events.
//!
//! The benefit: a deadline is answered within 20 ms even if every batch thread is busy, and a call that a full queue or
//! a caller's limit refuses takes 15 us of CPU instead of 45 in a Python handler. The cost: one atomic load per
//! answered call.
//!
//! Calls that are answered by repeating an earlier answer (`Count`) are counted in the same way.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::activity::Activity;
use super::python::names;
use super::signature::Signature;
use crate::queue::Full;

/// A task whose client has gone or whose deadline has passed, and how long the task has waited.
pub struct Abandoned {
    pub signature: Arc<Signature>,
    pub late: bool,
    pub seconds: f64,
}

impl Abandoned {
    pub fn count(self, py: Python<'_>) -> PyResult<()> {
        let names = names(py)?;
        let error = if self.late { &names.timed_out } else { &names.cancelled }.bind(py).call0()?;
        self.signature.counter.failed(py, &error, std::iter::once(self.seconds)).map(|_| ())
    }
}

/// The reason why a call was refused instead of queued.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Why {
    QueueFull,
    /// The call would have missed the latency objective.
    ObjectiveMissed,
    /// The caller has reached a limit.
    Exhausted,
}

impl Why {
    /// The reason why a queue refused a call.
    pub fn of(full: &Full) -> Self {
        if matches!(full, Full::Objective) { Self::ObjectiveMissed } else { Self::QueueFull }
    }
}

/// Calls of one signature that were refused, and how long each took.
struct Refused {
    signature: Arc<Signature>,
    why: Why,
    seconds: Vec<f64>,
}

impl Refused {
    fn count(self, py: Python<'_>) -> PyResult<()> {
        let names = names(py)?;
        let kind = match self.why {
            Why::QueueFull => &names.queue_full,
            Why::ObjectiveMissed => &names.objective_missed,
            Why::Exhausted => &names.caller_exhausted,
        };
        let error = kind.bind(py).call1(("",))?;
        self.signature.counter.failed(py, &error, self.seconds.into_iter()).map(|_| ())
    }
}

/// Counts calls that are answered by repeating an earlier answer.
pub struct Count {
    /// Called with a list of the seconds that each call took.
    count: Py<PyAny>,
    seconds: Mutex<Vec<f64>>,
}

impl Count {
    pub fn new(count: Py<PyAny>) -> Self {
        Self { count, seconds: Mutex::default() }
    }

    fn count(&self, py: Python<'_>) -> PyResult<()> {
        let seconds = std::mem::take(&mut *self.seconds.lock());
        self.count.bind(py).call1((seconds,)).map(drop)
    }
}

/// Calls that have ended and are not counted yet. May be used on any thread.
#[derive(Default)]
pub struct EndedCalls {
    answered: Mutex<Vec<Arc<Count>>>,
    abandoned: Mutex<Vec<Abandoned>>,
    refused: Mutex<Vec<Refused>>,
    /// Notified for each call that is added, and by callers that put a task into a queue.
    pub activity: Activity,
}

impl EndedCalls {
    /// Adds a call that was refused instead of queued. There may be very many such calls.
    pub fn add_refused(&self, signature: &Arc<Signature>, why: Why, seconds: f64) {
        let mut refused = self.refused.lock();
        let same = |known: &&mut Refused| known.why == why && Arc::ptr_eq(&known.signature, signature);
        match refused.iter_mut().find(same) {
            Some(known) => known.seconds.push(seconds),
            None => refused.push(Refused { signature: signature.clone(), why, seconds: vec![seconds] }),
        }
        drop(refused);
        self.activity.note();
    }

    /// Adds a call whose deadline has passed, and whose client has been told so.
    pub fn add_late(&self, signature: &Arc<Signature>, seconds: f64) {
        self.abandoned.lock().push(Abandoned { signature: signature.clone(), late: true, seconds });
        self.activity.note();
    }

    /// Adds a call that was answered by repeating an earlier answer.
    pub fn add_answered(&self, count: &Arc<Count>, seconds: f64) {
        let mut all = count.seconds.lock();
        all.push(seconds);
        let is_first = all.len() == 1;
        drop(all);
        if is_first {
            self.answered.lock().push(count.clone());
            self.activity.note();
        }
    }

    /// Adds calls that have been abandoned; returns whether there is anything to count.
    pub fn add_abandoned(&self, more: Vec<Abandoned>) -> bool {
        let mut abandoned = self.abandoned.lock();
        abandoned.extend(more);
        !abandoned.is_empty() || !self.refused.lock().is_empty() || !self.answered.lock().is_empty()
    }

    /// Counts all of these calls, each once.
    pub fn count(&self, py: Python<'_>) -> PyResult<()> {
        let abandoned = std::mem::take(&mut *self.abandoned.lock());
        let refused = std::mem::take(&mut *self.refused.lock());
        let answered = std::mem::take(&mut *self.answered.lock());
        answered.into_iter().try_for_each(|count| count.count(py))?;
        abandoned.into_iter().try_for_each(|abandoned| abandoned.count(py))?;
        refused.into_iter().try_for_each(|refused| refused.count(py))
    }
}

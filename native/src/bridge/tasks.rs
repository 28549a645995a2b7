//! The waiting tasks, whether from Python or from Rust, and their clock: what a queue and its lanes share.

use std::sync::Weak;

use parking_lot::Mutex;
use pyo3::prelude::*;

use super::clock::Clock;
use super::ended::Abandoned;
use super::keys::Keys;
use super::native_run::NativeRun;
use super::shared::Shared;
use super::task::Task;
use crate::queue;

/// The parts that a queue shares with its lanes.
pub struct Tasks {
    pub queue: queue::Queue<Task>,
    pub clock: Clock,
    pub keys: Keys,
    pub shared: Shared,
    /// Each has runs that should be counted soon.
    pub uncounted: Mutex<Vec<Weak<NativeRun>>>,
}

impl Tasks {
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Whether any tasks wait.
    pub fn wait(&self) -> bool {
        self.queue.waits()
    }

    /// Whether any runs without the interpreter should be counted now.
    pub fn counts_are_due(&self) -> bool {
        !self.uncounted.lock().is_empty()
    }

    /// Counts the runs that should be counted now (`counts_are_due`).
    pub fn count(&self, py: Python<'_>) {
        let uncounted = std::mem::take(&mut *self.uncounted.lock());
        uncounted.iter().filter_map(Weak::upgrade).for_each(|native_run| native_run.counts.count(py));
    }

    /// Abandons the waiting tasks that were decoded in Rust and whose client has gone or whose deadline has passed;
    /// returns what must be reported of them.
    pub fn abandoned(&self) -> Vec<Abandoned> {
        self.queue.abandoned(self.clock.now())
    }
}

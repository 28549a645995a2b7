//! The waiting tasks, whether from Python or from Rust, and their clock: what a queue and its lanes share.

use std::sync::Weak;
use std::time::Instant;

use pyo3::prelude::*;

use super::clock::Clock;
use super::due_counts::DueCounts;
use super::ended::Abandoned;
use super::keys::Keys;
use super::shared::Shared;
use super::task::Task;
use crate::queue;

/// The parts that a queue shares with its lanes.
pub struct Tasks {
    pub queue: queue::Queue<Task>,
    pub clock: Clock,
    pub keys: Keys,
    pub shared: Shared,
    pub due_counts: DueCounts,
}

impl Tasks {
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Whether any tasks wait, or any runs without the interpreter wait to be counted.
    pub fn wait(&self) -> bool {
        self.queue.waits() || self.due_counts.wait()
    }

    /// Counts the runs without the interpreter that are due.
    pub fn count(&self, py: Python<'_>) {
        let lanes = self.due_counts.take(Instant::now());
        lanes.iter().filter_map(Weak::upgrade).for_each(|native_run| native_run.counts.count(py));
    }

    /// Abandons the waiting tasks that were decoded in Rust and whose client has gone or whose deadline has passed;
    /// returns what must be reported of them.
    pub fn abandoned(&self) -> Vec<Abandoned> {
        self.queue.abandoned(self.clock.now())
    }
}

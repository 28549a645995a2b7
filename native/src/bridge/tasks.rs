//! The waiting tasks of Python and Rust, and their clock: what a queue and its lanes share.

use super::clock::Clock;
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
}

impl Tasks {
    pub fn wake(&self) {
        self.queue.wake();
    }

    /// Whether any tasks wait.
    pub fn wait(&self) -> bool {
        self.queue.waits()
    }

    /// Abandons the waiting tasks that were decoded here and whose client has gone or whose deadline has passed;
    /// returns what must be reported of them.
    pub fn abandoned(&self) -> Vec<Abandoned> {
        self.queue.abandoned(self.clock.now())
    }
}

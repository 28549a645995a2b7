//! One scheduler's part of the queue: its rules, its bound on what may wait, and what runs.

use std::sync::Arc;

use super::pace::Pace;

/// How tasks become batches: what the queue must know of `headrace_batching.Options`.
#[derive(Clone, Debug)]
pub struct Rules {
    pub execution_limit: usize,
    pub enqueued_limit: usize,
    pub timeout: f64,
    pub splitting: bool,
    /// Batches of a lane that may run at once.
    pub running_limit: usize,
    /// Bytes that the joined inputs of a batch may take.
    pub max_batch_bytes: usize,
}

impl Rules {
    /// The refusal of a task that would be counted to one batch too many; `batches` wait.
    pub fn full(&self, batches: usize) -> Refusal {
        Refusal::Full(Full::Batches { waiting: batches, most: self.enqueued_limit })
    }
}

/// Why a task was not put.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Closed,
    Full(Full),
}

/// Why a queue is full, in numbers.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// This many batches wait, and no more may.
    Batches { waiting: usize, most: usize },
    /// A task has more rows than there is room for. `open` are those of the batch that is not full yet, `size` those
    /// that a batch may have.
    Rows { rows: usize, capacity: usize, waiting: usize, most: usize, open: usize, size: usize },
}

/// One scheduler's part of the queue, under the queue's lock.
pub struct Lane {
    pub rules: Arc<Rules>,
    pub rows: usize,
    pub groups: usize,
    pub pace: Pace,
    pub closed: bool,
}

impl Lane {
    pub fn idle(&self) -> bool {
        self.groups == 0 && self.pace.running == 0
    }

    /// Whether one more batch of it may run.
    pub fn free(&self) -> bool {
        self.pace.running < self.rules.running_limit
    }

    /// Bounds what waits over all groups to what one group may hold.
    pub fn check_bound(&self, rows: usize) -> Result<(), Refusal> {
        let (size, most) = (self.rules.execution_limit, self.rules.enqueued_limit);
        let capacity = most.saturating_mul(size) - self.rows;
        if rows <= capacity {
            return Ok(());
        }
        let waiting = self.rows.div_ceil(size).max(1);
        if !self.rules.splitting {
            return Err(self.rules.full(waiting));
        }
        let open = self.rows - (waiting - 1) * size;
        Err(Refusal::Full(Full::Rows { rows, capacity, waiting, most, open, size }))
    }
}

/// A lane as it is seen from outside: the rows that wait, whether none waits or runs, and whether it takes no more.
pub struct LaneState {
    pub rows: usize,
    pub idle: bool,
    pub closed: bool,
}

/// The number of a lane: one scheduler's part of a queue.
pub type LaneId = u64;

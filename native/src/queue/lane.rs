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
}

impl Rules {
    /// The refusal of a task that would be counted to one batch too many; `batches` wait.
    pub fn full(&self, batches: usize) -> Refusal {
        let most = self.enqueued_limit;
        Refusal::Full(format!("currently {batches} batches enqueued and max_enqueued_batches is {most}"))
    }
}

/// Why a task was not put.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Closed,
    Full(String),
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
        let batches = self.rows.div_ceil(size).max(1);
        if !self.rules.splitting {
            return Err(self.rules.full(batches));
        }
        let open = self.rows - (batches - 1) * size;
        Err(Refusal::Full(format!(
            "task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches={batches}, \
             max_enqueued_batches={most}, open_batch_size={open}, max_execution_batch_size={size})"
        )))
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

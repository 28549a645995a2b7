//! One scheduler's part of the queue: its rules, its limit on waiting tasks, and its running batches.

use std::sync::Arc;

use super::entry::Waits;
use super::pace::Pace;
use super::target::{Slots, Target};
use super::turn::Turn;

/// How tasks become batches: what the queue must know of `headrace_batching.Options`.
#[derive(Clone, Debug)]
pub struct Rules {
    pub execution_limit: usize,
    pub enqueued_limit: usize,
    pub timeout: f64,
    pub splitting: bool,
    /// The maximum number of batches of a lane that run at the same time.
    pub running_limit: usize,
    /// The number of batches of a lane that are expected to run at the same time.
    pub slots: usize,
    /// The maximum number of bytes of the joined inputs of a batch.
    pub max_batch_bytes: usize,
    /// Whether tasks run one by one, so that no batch has more than one.
    pub one_by_one: bool,
}

impl Rules {
    /// The refusal of a task that would need another batch, while the largest allowed number, `batches`, already wait.
    pub fn full(&self, batches: usize) -> Refusal {
        Refusal::Full(Full::Batches { waiting: batches, most: self.enqueued_limit })
    }
}

/// The reason why a task was not added.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Closed,
    Full(Full),
}

/// The reason why a queue is full, in numbers.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// `waiting` batches wait, and no more than `most` may.
    Batches { waiting: usize, most: usize },
    /// A task has more rows than there is room for. `open` is the number of rows in the batch that is not full yet, and
    /// `size` the number in a full batch.
    Rows { rows: usize, capacity: usize, waiting: usize, most: usize, open: usize, size: usize },
    /// A task could not be answered within the latency objective.
    Objective,
}

/// One scheduler's part of the queue, under the queue's lock.
pub struct Lane {
    pub rules: Arc<Rules>,
    pub rows: usize,
    pub groups: usize,
    pub pace: Pace,
    pub closed: bool,
    /// Whether the lane's batches run without the interpreter, except those with a task from Python.
    pub detached: bool,
    /// The size and the wait of a latency objective, which replace those of the rules; None without an objective.
    pub target: Option<Target>,
    pub slots: Slots,
    /// The number of tasks refused because they could not be answered in time.
    pub shed: usize,
}

impl Lane {
    /// The number of rows of a full batch.
    pub fn size(&self) -> usize {
        let limit = self.rules.execution_limit;
        self.target.map_or(limit, |target| target.size.min(limit))
    }

    /// How long a batch that is not full waits.
    pub fn timeout(&self) -> f64 {
        self.target.map_or(self.rules.timeout, |target| target.wait)
    }

    pub fn begin<T: Waits>(&mut self, now: f64, turn: &Turn<T>) {
        let runs = if self.rules.one_by_one { turn.pieces.len() } else { 1 };
        self.pace.begin(now, turn.size, runs);
        if let Some(target) = &self.target {
            let rows = turn.pieces.iter().map(|piece| (piece.stop - piece.start).max(1)).sum();
            self.slots.begin(now, target.run_of(rows));
        }
    }

    pub fn end(&mut self, now: f64) {
        self.pace.end(now);
        self.slots.end();
    }

    /// Refuses a task that could not be answered in time.
    pub fn check_objective(&mut self, rows: usize, now: f64) -> Result<(), Refusal> {
        let Some(target) = &self.target else { return Ok(()) };
        if self.slots.makes_it(target, now, self.rows, rows) {
            return Ok(());
        }
        self.shed += 1;
        Err(Refusal::Full(Full::Objective))
    }

    pub fn idle(&self) -> bool {
        self.groups == 0 && self.pace.running == 0
    }

    /// Whether one more batch of the lane may run.
    pub fn free(&self) -> bool {
        self.pace.running < self.rules.running_limit && !(self.rules.one_by_one && self.pace.is_briefly_busy())
    }

    /// Refuses a task if, with it, more rows would wait in all groups together than may wait in one group.
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

/// The state of a lane, as callers see it: the number of waiting rows, whether no task waits or runs, whether the lane
/// is closed, and the number of tasks refused for its latency objective.
pub struct LaneState {
    pub rows: usize,
    pub idle: bool,
    pub closed: bool,
    pub shed: usize,
}

//! One waiting request, as the queue sees it.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use pyo3::prelude::*;

/// The number of priorities; 0 is the highest.
pub const PRIORITIES: usize = 2;

/// The number of a lane: one scheduler's part of a queue.
pub type LaneId = u64;

/// A key, which must be equal for two tasks to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// All requests that pass the signature's checks may share batches.
    Any,
    /// Each input's rank and dimensions beyond axis 0.
    Shapes(Vec<usize>),
    /// The wanted outputs, a bit for each, and shapes as above: for tasks that are decoded outside the interpreter and
    /// want only some of the outputs.
    Chosen(u64, Vec<usize>),
    /// Any other key from Python, represented by a token.
    Other(Token),
}

/// A Python object that is equal only to itself.
#[derive(Clone, Debug)]
pub struct Token(pub Arc<Py<PyAny>>);

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.as_ptr() as usize).hash(state);
    }
}

/// A task as the queue sees it.
pub trait Waits: Sized {
    type Abandoned;

    /// Whether the task's client has gone. Called under the queue's lock.
    fn gone(&mut self) -> bool;

    /// Abandons the task if its client has gone, or if it is `late` (its deadline has passed). Returns what must be
    /// reported of it; None if there is nothing to report, or if it has been reported before. Called under the queue's
    /// lock, without the interpreter lock.
    fn abandon(&mut self, late: bool) -> Option<Self::Abandoned>;

    /// Whether the task may leave the queue together with others that run one by one.
    fn in_series(&self) -> bool;

    /// Whether looking at the task needs the interpreter lock.
    fn needs_python(&self) -> bool;

    /// Another reference to the task, for some of its rows; None for a task that is only run as a whole.
    fn share(&self) -> Option<Self>;
}

/// A task in the queue. Times are in seconds on the queue's clock.
pub struct Entry<T> {
    pub task: T,
    pub rows: usize,
    /// The number of bytes that one row of the task takes in a batch.
    pub row_bytes: usize,
    pub deadline: Option<f64>,
    pub priority: usize,
    pub arrived: f64,
    pub slot: u64,
    pub taken: usize,
}

impl<T> Entry<T> {
    pub fn new(task: T, rows: usize, row_bytes: usize, deadline: Option<f64>, priority: usize) -> Self {
        let priority = priority.min(PRIORITIES - 1);
        Self { task, rows, row_bytes, deadline, priority, arrived: 0.0, slot: 0, taken: 0 }
    }

    pub fn left(&self) -> usize {
        (self.rows - self.taken).max(1)
    }

    /// The number of bytes that this many rows of the task take in a batch, or `rows` if the task's `row_bytes` is 0.
    pub fn size_of(&self, rows: usize) -> usize {
        rows.saturating_mul(self.row_bytes.max(1))
    }

    pub fn into_piece(self) -> Piece<T> {
        Piece { task: self.task, start: self.taken, stop: self.rows, arrived: self.arrived }
    }
}

impl<T: Waits> Entry<T> {
    /// Splits off the next `rows` rows of a task that has more; None if the task must run as a whole.
    pub fn split(&mut self, rows: usize) -> Option<Piece<T>> {
        let start = self.taken;
        let task = self.task.share()?;
        self.taken += rows;
        Some(Piece { task, start, stop: self.taken, arrived: self.arrived })
    }
}

/// The rows `start` to `stop` of a task, which have left the queue.
pub struct Piece<T> {
    pub task: T,
    pub start: usize,
    pub stop: usize,
    pub arrived: f64,
}

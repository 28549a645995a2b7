//! The result of one look at the queue.

use super::entry::{Key, LaneId, Piece};

/// The result of one look at the queue: a lane and its batch, or the time to look again, and the tasks that have
/// expired.
pub struct Turn<T> {
    pub lane: Option<LaneId>,
    pub pieces: Vec<Piece<T>>,
    /// The size of the batch, as the sum of `Entry::size_of` over its tasks.
    pub size: usize,
    pub expired: Vec<T>,
    pub gone: Vec<T>,
    pub wake: f64,
    /// The key of a group that no longer exists. Dropping it can run Python code, which must not happen while the queue
    /// is locked.
    pub spent: Option<Key>,
}

/// The result of one look at the queue by a thread without the interpreter lock.
pub enum Detached<T> {
    /// No batch is due, perhaps because another thread has just taken it.
    Nothing,
    /// The batch that is due has not been taken, since it needs Python.
    NeedsPython,
    /// The batch that was taken.
    Turn(Turn<T>),
}

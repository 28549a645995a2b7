//! What one look at the queue gives.

use super::entry::{Key, Piece};
use super::lane::LaneId;

/// What one look at the queue gave: a lane and its batch, or else when to look again; and who has waited in vain.
pub struct Turn<T> {
    pub lane: Option<LaneId>,
    pub pieces: Vec<Piece<T>>,
    /// Bytes of the batch, as `Entry::size_of` counts them.
    pub size: usize,
    pub expired: Vec<T>,
    pub gone: Vec<T>,
    pub wake: f64,
    /// Of a group that is no more. What Python does at its end must not happen while the queue is locked.
    pub spent: Option<Key>,
}

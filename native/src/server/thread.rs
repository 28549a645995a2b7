//! A thread that owns connections, as its connections see it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;

use super::busy_poll::BusyPoll;
use super::shared::Shared;
use crate::calls::Outbox;
use crate::handover::Handover;
use crate::http2::AfterPause;

/// A thread that owns connections.
pub struct ConnectionThread {
    pub shared: Arc<Shared>,
    pub busy_poll: BusyPoll,
    /// Wakes the tasks of its HTTP connections whose answers are ready.
    pub wakes: Arc<Handover<Waker>>,
    /// Sends the answers of its gRPC connections.
    pub outbox: Arc<Outbox>,
    pub connections: AtomicUsize,
}

impl ConnectionThread {
    /// Creates a thread that itself runs batches of at most this many calls.
    pub fn new(shared: Arc<Shared>, most: usize) -> Self {
        Self {
            busy_poll: BusyPoll::new(shared.clone(), most),
            wakes: Arc::default(),
            outbox: Arc::default(),
            shared,
            connections: AtomicUsize::new(0),
        }
    }

    /// Handles the calls that have come while one of its connections reads a large message; as in `Turn::new`.
    pub fn after_pause(self: &Arc<Self>) -> AfterPause {
        let thread = self.clone();
        Arc::new(move || thread.busy_poll.after_pause())
    }
}

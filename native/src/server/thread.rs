//! A thread that owns connections, as its connections see it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;
use std::time::Duration;

use super::busy_poll::BusyPoll;
use super::shared::Shared;
use crate::calls::CallOutbox;
use crate::handover::Handover;
use crate::http::Spares;
use crate::http2::AfterPause;

/// The maximum number of bytes of the kept buffers, enough for three bodies of 10 MB.
const SPARE: usize = 32 << 20;

/// The kept buffers may use the limit on the memory for callers divided by this, in addition to that limit.
const SPARE_PART: usize = 16;

/// How long a buffer is kept for the next large body.
const SPARE_TIME: Duration = Duration::from_secs(10);

/// A thread that owns connections.
pub struct ConnectionThread {
    pub shared: Arc<Shared>,
    pub busy_poll: BusyPoll,
    /// Wakes the tasks of its HTTP connections whose answers are ready.
    pub wakes: Arc<Handover<Waker>>,
    /// Sends the answers of its gRPC connections.
    pub outbox: Arc<CallOutbox>,
    pub connections: AtomicUsize,
    /// The buffers for large bodies over HTTP.
    pub spares: Spares,
}

impl ConnectionThread {
    /// Creates a thread that itself runs batches of at most this many calls.
    pub fn new(shared: Arc<Shared>, most: usize) -> Self {
        Self {
            busy_poll: BusyPoll::new(shared.clone(), most),
            wakes: Arc::default(),
            outbox: Arc::default(),
            connections: AtomicUsize::new(0),
            spares: Spares::new(SPARE.min(shared.budget.limit() / SPARE_PART), SPARE_TIME),
            shared,
        }
    }

    /// Handles the calls that have come while one of its connections reads a large message; as in `Turn::new`.
    pub fn after_pause(self: &Arc<Self>) -> AfterPause {
        let thread = self.clone();
        Arc::new(move || thread.busy_poll.after_pause())
    }
}

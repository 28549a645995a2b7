//! A thread that owns connections, as these know it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::busy_poll::BusyPoll;
use super::shared::Shared;

/// A thread that owns connections.
pub struct ConnectionThread {
    pub shared: Arc<Shared>,
    pub busy_poll: BusyPoll,
    pub connections: AtomicUsize,
}

impl ConnectionThread {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { busy_poll: BusyPoll::new(shared.clone()), shared, connections: AtomicUsize::new(0) }
    }
}

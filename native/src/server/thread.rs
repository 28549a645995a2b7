//! A thread that owns connections, as its connections see it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::busy_poll::BusyPoll;
use super::shared::Shared;
use crate::http::Wakes;

/// A thread that owns connections.
pub struct ConnectionThread {
    pub shared: Arc<Shared>,
    pub busy_poll: BusyPoll,
    /// Wakes its connections whose answers over HTTP have arrived.
    pub wakes: Arc<Wakes>,
    pub connections: AtomicUsize,
}

impl ConnectionThread {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            busy_poll: BusyPoll::new(shared.clone()),
            wakes: Arc::default(),
            shared,
            connections: AtomicUsize::new(0),
        }
    }
}

//! A thread that owns connections, as these know it.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::busy_poll::BusyPoll;
use super::shared::Shared;
use crate::http::Wakes;

/// A thread that owns connections.
pub struct ConnectionThread {
    pub shared: Arc<Shared>,
    pub busy_poll: BusyPoll,
    /// Wakes its connections whose answers over HTTP have come.
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

//! The client at the other end of a gRPC connection.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderMap;

use super::thread::ConnectionThread;
use crate::memory::{CallMemory, Kind, Share};
use crate::security::Identity;

/// The approximate size in bytes of a call without its message, its answer and its headers.
const CALL: usize = 2 << 10;

/// The approximate size of one header in bytes.
const HEADER: usize = 128;

/// The client at the other end of a connection.
pub struct Client {
    pub(super) address: Arc<str>,
    pub(super) identity: Arc<Identity>,
    pub thread: Arc<ConnectionThread>,
    pub(super) share: Arc<Share>,
}

impl Client {
    pub fn new(address: Arc<str>, identity: Identity, thread: Arc<ConnectionThread>) -> Self {
        let share = Arc::new(Share::new(thread.shared.budget.clone()));
        Self { address, identity: Arc::new(identity), thread, share }
    }

    /// Whether the client has to send something, whether it has to read something, and how many bytes it has sent and
    /// read so far.
    pub fn owes(&self) -> (bool, bool, (usize, usize)) {
        let (waiting, left) = self.share.outgoing.progress();
        let sends = self.share.begun.load(Ordering::Relaxed) > 0;
        (sends, waiting > 0, (self.share.came.load(Ordering::Relaxed), left))
    }

    /// The memory of a new call with these headers; None if there is not enough.
    pub(super) fn call_memory(&self, headers: &HeaderMap) -> Option<Arc<CallMemory>> {
        let memory = Arc::new(CallMemory::new(self.share.clone()));
        memory.grow(Kind::Calls, CALL + HEADER * headers.len()).then_some(memory)
    }
}

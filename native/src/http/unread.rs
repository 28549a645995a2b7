//! Counts an answer as memory of its client until the client has read it.

use std::sync::Arc;

use bytes::Bytes;

use crate::memory::{CallMemory, Kind};

/// Bytes of an answer, and the memory that is reserved for them.
pub struct Unread {
    bytes: Bytes,
    _memory: Arc<CallMemory>,
}

impl Unread {
    /// Reserves memory for the bytes until they have been sent; None if too little is left.
    pub fn hold(bytes: Bytes, memory: Arc<CallMemory>) -> Option<Bytes> {
        memory.drop_request();
        memory.set(Kind::Answers, bytes.len()).then(|| Bytes::from_owner(Self { bytes, _memory: memory }))
    }
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

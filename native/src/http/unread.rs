//! Counts an answer as memory of its client until the client has read it.

use std::sync::Arc;

use bytes::Bytes;

use crate::memory::{CallMemory, Kind, NoMemory};

/// Bytes of an answer, and the memory that is reserved for them.
pub struct Unread<B> {
    bytes: B,
    _memory: Arc<CallMemory>,
}

impl<B: AsRef<[u8]>> Unread<B> {
    /// Reserves memory for the bytes until they have been sent. Fails if too little is left.
    pub fn hold(bytes: B, memory: Arc<CallMemory>) -> Result<Self, NoMemory> {
        match memory.set(Kind::Answers, bytes.as_ref().len()) {
            true => Ok(Self { bytes, _memory: memory }),
            false => Err(NoMemory::Budget),
        }
    }
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Unread<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl<B: AsRef<[u8]> + Send + 'static> From<Unread<B>> for Bytes {
    fn from(unread: Unread<B>) -> Self {
        Self::from_owner(unread)
    }
}

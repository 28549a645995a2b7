//! How a call ends: gRPC's codes, and the error texts of this transport.

use crate::memory::{Budget, NoMemory};

pub const OK: u8 = 0;
pub const CANCELLED: u8 = 1;
pub const UNKNOWN: u8 = 2;
pub const INVALID_ARGUMENT: u8 = 3;
pub const DEADLINE_EXCEEDED: u8 = 4;
pub const PERMISSION_DENIED: u8 = 7;
pub const RESOURCE_EXHAUSTED: u8 = 8;
pub const UNIMPLEMENTED: u8 = 12;
pub const INTERNAL: u8 = 13;
pub const UNAVAILABLE: u8 = 14;
pub const UNAUTHENTICATED: u8 = 16;

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u8,
    pub text: String,
}

impl Status {
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// Whether the call was successful.
    pub fn is_ok(&self) -> bool {
        self.code == OK
    }

    /// The caller's deadline has passed.
    pub fn deadline_exceeded() -> Self {
        Self::new(DEADLINE_EXCEEDED, "Deadline Exceeded")
    }

    /// The reason why a message longer than `limit` is not sent; None if it is within the limit. `part` may describe
    /// its content.
    pub fn too_large_to_send(length: usize, limit: usize, part: impl FnOnce() -> String) -> Option<Self> {
        let text = || format!("SERVER: Sent message larger than max ({length} vs. {limit}){}", part());
        (length > limit).then(|| Self::new(RESOURCE_EXHAUSTED, text()))
    }

    /// The server, or this client's connection, has reached its memory limit.
    pub fn no_memory(budget: &Budget) -> Self {
        let held: usize = budget.by_kind().iter().sum();
        let text = format!("too much memory is held for requests: {held} of {} bytes", budget.limit());
        Self::new(
            RESOURCE_EXHAUSTED,
            format!("{text} (--request_memory_mb); a single connection may hold only a part of that memory"),
        )
    }

    /// There is no memory for a request or for an answer.
    pub fn no_room(reason: NoMemory, budget: &Budget) -> Self {
        match reason {
            NoMemory::Budget => Self::no_memory(budget),
            NoMemory::System(size) => Self::cannot_allocate(size),
        }
    }

    /// The system does not give the server this many bytes.
    pub fn cannot_allocate(size: usize) -> Self {
        Self::new(RESOURCE_EXHAUSTED, format!("the server cannot allocate {size} bytes, which the call needs"))
    }

    /// The reason why a message longer than `limit` is not read.
    pub fn too_large_to_receive(length: impl std::fmt::Display, limit: usize) -> Self {
        Self::new(RESOURCE_EXHAUSTED, format!("SERVER: Received message larger than max ({length} vs. {limit})"))
    }
}

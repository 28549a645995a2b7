//! The state of a call when its headers have arrived.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;

use crate::grpc::{Encoding, ReadError};
use crate::memory::CallMemory;
use crate::protobuf::Rope;
use crate::security::Identity;
use crate::traces::Begun;

/// The state of a call when its headers have arrived.
pub struct Opening {
    pub method: usize,
    pub streaming: bool,
    pub headers: HeaderMap,
    pub deadline: Option<Instant>,
    pub peer: Arc<str>,
    pub identity: Arc<Identity>,
    pub encoding: Encoding,
    pub max_send: usize,
    pub memory: Arc<CallMemory>,
    /// The call's trace; None if it is not traced.
    pub traced: Option<Arc<Begun>>,
}

/// The result of reading the only message of a unary call; None if the message has not arrived completely.
pub type Arrived = Option<Result<Rope, ReadError>>;

/// The deadline of a call with this timeout that has arrived now.
pub fn deadline_after(timeout: Option<Duration>) -> Option<Instant> {
    timeout.map(|timeout| Instant::now() + timeout)
}

/// Waits until a deadline has passed.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

//! The limits on what clients may ask of a server.

use std::time::Duration;

use pyo3::prelude::*;

use crate::grpc::{Encoding, MessageLimits};
use crate::http2::LifetimeLimits;

/// The limits as Python passes them: gRPC's channel arguments, by their names without the first word and with `_` for
/// every dot, and further limits of this server.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Arguments {
    max_receive_message_length: usize,
    max_send_message_length: usize,
    max_concurrent_streams: u32,
    max_metadata_size: u32,
    keepalive_time_ms: u64,
    keepalive_timeout_ms: u64,
    keepalive_permit_without_calls: u64,
    http2_max_ping_strikes: u32,
    http2_min_ping_interval_without_data_ms: u64,
    max_connection_age_ms: u64,
    max_connection_age_grace_ms: u64,
    max_connection_idle_ms: u64,
    default_compression_algorithm: u8,
    request_memory: usize,
    max_expanded: usize,
    stall_ms: u64,
}

/// The limits of one server, in the form in which they are used.
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_receive_message: usize,
    pub max_send_message: usize,
    pub max_concurrent_streams: u32,
    pub max_metadata_size: u32,
    pub compression: Encoding,
    /// The limit on the memory that the server uses for all clients together, in bytes.
    pub request_memory: usize,
    /// The size limit of a compressed request after decompression.
    pub max_expanded: usize,
    /// How long a client may be inactive when it has to send or read something.
    pub stall: Option<Duration>,
    pub lifetime: LifetimeLimits,
}

impl Limits {
    pub fn messages(&self) -> MessageLimits {
        MessageLimits { sent: self.max_receive_message, expanded: self.max_expanded }
    }
}

/// Converts milliseconds to a duration. gRPC's largest number means no limit, which is None here.
fn milliseconds(count: u64) -> Option<Duration> {
    (count < i32::MAX as u64).then(|| Duration::from_millis(count))
}

impl From<Arguments> for Limits {
    fn from(arguments: Arguments) -> Self {
        Self {
            max_receive_message: arguments.max_receive_message_length,
            max_send_message: arguments.max_send_message_length,
            max_concurrent_streams: arguments.max_concurrent_streams,
            max_metadata_size: arguments.max_metadata_size,
            compression: Encoding::numbered(arguments.default_compression_algorithm),
            request_memory: arguments.request_memory,
            max_expanded: arguments.max_expanded,
            stall: (arguments.stall_ms > 0).then(|| Duration::from_millis(arguments.stall_ms)),
            lifetime: LifetimeLimits {
                keepalive_time: milliseconds(arguments.keepalive_time_ms),
                keepalive_timeout: milliseconds(arguments.keepalive_timeout_ms),
                keepalive_without_calls: arguments.keepalive_permit_without_calls != 0,
                max_ping_strikes: arguments.http2_max_ping_strikes,
                min_ping_interval: Duration::from_millis(arguments.http2_min_ping_interval_without_data_ms),
                max_age: milliseconds(arguments.max_connection_age_ms),
                max_age_grace: milliseconds(arguments.max_connection_age_grace_ms),
                max_idle: milliseconds(arguments.max_connection_idle_ms),
            },
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Limits {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(object.extract::<Arguments>()?.into())
    }
}

//! gRPC's part of a call: headers, status, framing, compression. Independent of services and connections.

mod compression;
mod frame;
mod headers;
mod messages;
mod status;

pub use compression::Encoding;
#[cfg(feature = "fuzzing")]
pub use frame::Framed;
pub use frame::{Frame, PREFIX, prefix, prefix_of};
pub use headers::{
    CallHeaders, compressed_response, decode_binary, encode_binary, http_refusal, ok_trailers, response,
};
pub use messages::{MessageLimits, Messages, ReadError};
pub use status::{
    CANCELLED, DEADLINE_EXCEEDED, INTERNAL, INVALID_ARGUMENT, OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, Status,
    UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN,
};

//! The codec of plain requests with tf.Examples: from features to the arrays of a signature, and from outputs to
//! classes with scores or to values.

mod columns;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod request;
mod response;

pub use columns::{columns, serialized};
pub use request::{Inference, Input, MultiRequest, Request};
pub use response::{Format, Response, Result, Table, multi_response};

//! The codec of the plain Predict: from a request's bytes to tensors, and from rows of outputs to a response's bytes.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod request;
mod response;

pub use request::{Column, Input, Request, Spec, Tensor, Tensors, Text, Version, tensors};
pub use response::{Format, Output, Response};

//! The codec of the plain Predict: from a request's bytes to tensors, and from rows of outputs to a response's bytes.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inputs;
mod request;
mod response;
mod tensors;

pub use inputs::{Column, Input, Tensor, Tensors};
pub use request::{Request, Spec, Text, Version};
pub use response::{Format, Output, Response};
pub use tensors::tensors;

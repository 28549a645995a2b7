//! The codec of the plain ModelInfer of the Open Inference Protocol: from a request's bytes to tensors, and from rows
//! of outputs to a response's bytes.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod json;
mod regions;
mod request;
mod response;

pub use regions::{Part, Regions};
pub use request::{Request, SharedTensor, Tensors};
pub use response::{Format, Response};

use crate::protobuf::Dtype;

/// The protocol's name of an element type.
fn datatype(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Float => "FP32",
        Dtype::Double => "FP64",
        Dtype::Half => "FP16",
        Dtype::Bool => "BOOL",
        Dtype::Int8 => "INT8",
        Dtype::Int16 => "INT16",
        Dtype::Int32 => "INT32",
        Dtype::Int64 => "INT64",
        Dtype::String => "BYTES",
        Dtype::Uint8 => "UINT8",
        Dtype::Uint16 => "UINT16",
        Dtype::Uint32 => "UINT32",
        Dtype::Uint64 => "UINT64",
    }
}

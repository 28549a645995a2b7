//! The plain calls of the REST APIs: TensorFlow Serving's :predict, from its body to arrays and from rows of outputs to
//! JSON, and the infer of the Open Inference Protocol, whose codec is in `open_inference/json/`.

mod call;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod infer;
mod inputs;
mod outputs;
mod path;

pub use call::{Call, Mailbox, refusal};
pub use inputs::{Body, Declares};
pub use path::ModelPath;

//! The plain calls of the REST APIs: TensorFlow Serving's :predict, from its body to arrays and from rows of outputs to
//! JSON, and the infer of the Open Inference Protocol, whose codec is in `open_inference/json/`.

mod call;
mod examples;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod infer;
mod inputs;
mod outputs;
mod path;
mod results;

pub use call::{Call, Mailbox, Reply, refusal};
pub use examples::ExamplesBody;
pub use inputs::{Body, Declares};
pub use path::{ModelPath, Verb};

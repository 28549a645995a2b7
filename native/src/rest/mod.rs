//! The plain calls of the REST APIs: TensorFlow Serving's :predict, :classify and :regress, from their bodies to arrays
//! and from outputs to JSON, and the infer of the Open Inference Protocol, whose codec is in `open_inference/json/`.

mod call;
mod elements;
mod examples;
mod filling;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod infer;
mod inputs;
mod outputs;
mod path;
mod results;
mod values;

pub use call::{Call, Connection, Mailbox, Reply, refusal};
pub use examples::ExamplesBody;
pub use inputs::{Body, Declares};
pub use path::{ModelPath, Verb};

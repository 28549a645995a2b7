//! TensorFlow Serving's REST API: the plain :predict, from its body to arrays and from rows of outputs to JSON.

mod call;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod inputs;
mod outputs;
mod path;

pub use call::{Call, Mailbox, refusal};
pub use inputs::{Body, Declares};
pub use path::Predict;

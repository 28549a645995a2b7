//! A gRPC client: calls over a connection that is kept open, and the encoding and decoding of a Predict's arrays.
//! Independent of the server.

mod answer;
mod attempt;
mod channel;
mod connection;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod gathering;
mod head;
mod inputs;
mod outputs;
mod python;
mod request;
mod retry;
mod target;

pub use answer::Answer;
pub use channel::Channel;
pub use python::{ClientChannel, Failure, new_channel};
pub use request::{ClientRequest, Message};

/// The interface version for `headrace_client`: raised with every change that it can see.
pub const INTERFACE: u32 = 1;

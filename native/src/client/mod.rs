//! A gRPC client: calls over a connection that is kept, and a Predict's arrays to bytes and back. Knows no server.

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

/// Which `headrace_client` this fits: raised with every change of what that sees.
pub const INTERFACE: u32 = 1;

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
mod tls;

pub use answer::Answer;
pub use channel::Channel;
pub use python::{ClientChannel, Failure, new_channel};
pub use request::{ClientRequest, Message};
pub use tls::ClientTls;

/// The interface version that `headrace_client` checks: raised with every change that affects it.
pub const INTERFACE: u32 = 2;

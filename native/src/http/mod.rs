//! HTTP/1.1 and HTTP/2 with hyper: connections, bodies with limits, and the requests that Python answers.

mod answer;
mod connection;
mod endpoint;
mod exchange;
mod intake;
mod pieces;
mod plain;
mod progress;
mod rewound;
mod spares;
mod stalling;
mod unread;

pub use answer::{Answer, Answered, answer};
pub use connection::{Answers, PlainCall, serve};
pub use endpoint::{Endpoint, HttpEndpoint};
pub use exchange::{Event, HttpRequest, ask_python, question};
pub use intake::{Body, Bounds, Missing, SMALL};
pub use plain::PlainRequest;
#[cfg(feature = "fuzzing")]
pub use plain::{Next, Requests};
pub use spares::Spares;
pub use unread::Unread;

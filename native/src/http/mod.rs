//! HTTP/1.1 and HTTP/2 with hyper: connections, bodies with limits, and the requests that Python answers.

mod answer;
mod answers;
mod connection;
mod endpoint;
mod exchange;
mod intake;
mod pieces;
mod plain;
mod progress;
mod python_request;
mod rewound;
mod spares;
mod stalling;
mod unread;

pub use answer::{Answer, Answered, answer};
pub use answers::{Answers, PlainCall, PlainRequest};
pub use connection::serve;
pub use endpoint::{Endpoint, HttpEndpoint};
pub use exchange::{ask_python, question};
pub use intake::{Body, Bounds, Missing, SMALL};
#[cfg(feature = "fuzzing")]
pub use plain::{Next, Requests};
pub use python_request::{Event, HttpRequest};
pub use spares::Spares;
pub use unread::Unread;

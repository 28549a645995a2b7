//! The interface through which an HTTP connection has its requests answered.

use std::future::Future;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{HeaderMap, Request};
use hyper::body::Incoming;

use super::answer::{Answer, Answered};
use crate::http2::AfterPause;

/// Answers the requests of a connection.
pub trait Answers: Clone {
    /// Begins to answer a plain call over HTTP/1.1 with a small body; None if it is not plain after all.
    fn call(&self, request: PlainRequest<'_>) -> Option<impl PlainCall + use<Self>>;

    /// The beginning of the head of a successful answer to a plain call.
    fn head(&self) -> &[u8];

    /// Answers a request of any kind.
    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send + 'static;

    /// Whether the server is stopping.
    fn is_stopping(&self) -> bool;

    /// The function that the thread runs before the connection goes on reading a large body; as in `Turn::new`.
    fn after_pause(&self) -> AfterPause;
}

/// A call that waits for its answer. Dropping it cancels the call.
pub trait PlainCall {
    /// Returns the call's answer, once only. Pending until the answer is ready; then the task is woken.
    fn poll(&mut self, context: &Context<'_>) -> Poll<Answered>;

    /// The call's deadline, after which its model has taken too long.
    fn deadline(&self) -> Option<Instant>;

    /// Ends the call at its deadline; None if an answer is already being delivered.
    fn expire(&mut self) -> Option<Answered>;
}

/// A plain request.
#[derive(Debug, PartialEq, Eq)]
pub struct PlainRequest<'a> {
    pub path: &'a str,
    /// The request's headers that say how its caller traces it.
    pub context: &'a HeaderMap,
    pub body: &'a [u8],
}

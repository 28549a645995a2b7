//! The sending half of a call: its head, its messages as frames, and how it ends.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::HeaderMap;

use super::opening::Opening;
use crate::grpc::{self, Encoding, Frame, Status};
use crate::memory::{CallMemory, Kind};

/// The sending half of a call.
pub struct Reply {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    encoding: Encoding,
    max_send: usize,
    memory: Arc<CallMemory>,
    metadata: HeaderMap,
}

impl Reply {
    pub fn new(respond: SendResponse<Bytes>, opening: &Opening) -> Self {
        let Opening { encoding, max_send, ref memory, .. } = *opening;
        Self { respond, stream: None, encoding, max_send, memory: memory.clone(), metadata: HeaderMap::new() }
    }

    /// Sends the response's head, with this metadata.
    pub fn send_metadata(&mut self, metadata: HeaderMap) -> Result<(), h2::Error> {
        self.metadata = metadata;
        self.stream().map(|_| ())
    }

    pub fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(context).map(|_| ()),
            None => self.respond.poll_reset(context).map(|_| ()),
        }
    }

    /// Returns the stream to write to, after sending the response's head if that has not been done.
    fn stream(&mut self) -> Result<&mut SendStream<Bytes>, h2::Error> {
        if self.stream.is_none() {
            let mut response = grpc::compressed_response(self.encoding);
            response.headers_mut().extend(std::mem::take(&mut self.metadata));
            self.stream = Some(self.respond.send_response(response, false)?);
        }
        Ok(self.stream.as_mut().expect("the stream has just been created"))
    }

    /// Reserves memory for a message. Returns why the message must not be sent; None if it may be sent.
    pub fn refuses(&self, message: &Bytes) -> Option<Status> {
        Status::too_large_to_send(message.len(), self.max_send, String::new).or_else(|| {
            let has_room = self.memory.set(Kind::Answers, message.len());
            (!has_room).then(|| Status::no_memory(self.memory.budget()))
        })
    }

    /// Passes a message to the connection, which keeps it until the caller can receive it.
    pub fn send(&mut self, message: Bytes) -> Result<(), h2::Error> {
        let Frame { head, tail } = self.encoding.frame(message);
        let count = |bytes| self.memory.count(bytes);
        let frame = Frame { head: count(head), tail: tail.map(count) };
        send_frame(self.stream()?, frame)
    }

    /// Waits until everything has been sent.
    pub async fn flushed(&mut self) -> Result<(), h2::Error> {
        let stream = self.stream()?;
        stream.reserve_capacity(1);
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends the call, with a last message if there is one. Returns false if the message must not be sent; the
    /// call then ends with an error that says why.
    pub fn end(&mut self, message: Option<Bytes>, status: &Status, more: HeaderMap) -> Result<bool, h2::Error> {
        match message.as_ref().and_then(|message| self.refuses(message)) {
            Some(refusal) => self.finish(None, &refusal, HeaderMap::new()).map(|()| false),
            None => self.finish(message, status, more).map(|()| true),
        }
    }

    /// Ends the call, with a last message if there is one.
    pub fn finish(&mut self, message: Option<Bytes>, status: &Status, more: HeaderMap) -> Result<(), h2::Error> {
        self.memory.drop_request();
        if self.stream.is_none() && message.is_none() {
            let mut response = status.response();
            response.headers_mut().extend(std::mem::take(&mut self.metadata));
            response.headers_mut().extend(more);
            return self.respond.send_response(response, true).map(|_| ());
        }
        if let Some(message) = message {
            self.send(message)?;
        }
        let mut trailers = status.trailers();
        trailers.extend(more);
        self.stream()?.send_trailers(trailers)
    }
}

/// Hands a frame to the connection.
fn send_frame(stream: &mut SendStream<Bytes>, frame: Frame) -> Result<(), h2::Error> {
    stream.send_data(frame.head, false)?;
    match frame.tail {
        Some(tail) => stream.send_data(tail, false),
        None => Ok(()),
    }
}

//! The way back to the client of a plain call: a stream of h2, or the socket itself.

use std::task::Context;

use bytes::Bytes;
use h2::server::SendResponse;
use http::Response;

use crate::grpc;
use crate::http2::LoneCall;

/// The headers of an answer, encoded without HPACK's table: `:status: 200`, and the content type.
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// The trailers of a successful call.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Where a plain call is answered.
pub enum Respond {
    Stream(SendResponse<Bytes>),
    Lone(LoneCall),
}

impl Respond {
    /// Sends a whole answer, of which `frame` is the message with its prefix. Must be called on the connection's
    /// thread.
    pub fn answer(self, frame: Bytes) {
        match self {
            Self::Stream(respond) => answer(respond, frame),
            Self::Lone(call) => {
                if let Err(mut call) = call.answer(HEAD, &frame, TRAILERS) {
                    call.through_h2(|respond| answer(respond, frame));
                }
            }
        }
    }

    /// Ends the call with a response that has no message. May be called on any thread.
    pub fn end(&mut self, response: Response<()>) {
        match self {
            Self::Stream(respond) => end(respond, response),
            Self::Lone(call) => call.through_h2(|mut respond| end(&mut respond, response)),
        }
    }

    /// Whether the client has gone; otherwise the task is woken when it goes, if h2 has the stream.
    pub fn is_gone(&mut self, context: &mut Context<'_>) -> bool {
        match self {
            Self::Stream(respond) => respond.poll_reset(context).is_ready(),
            Self::Lone(call) => call.is_gone(context),
        }
    }
}

/// Fails only if the client has gone.
fn answer(mut respond: SendResponse<Bytes>, frame: Bytes) {
    let _ = respond.send_response(grpc::response(), false).and_then(|mut stream| {
        stream.send_data(frame, false)?;
        stream.send_trailers(grpc::ok_trailers())
    });
}

/// Fails only if the client has gone.
fn end(respond: &mut SendResponse<Bytes>, response: Response<()>) {
    let _ = respond.send_response(response, true);
}

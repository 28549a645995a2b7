//! Handles each new call of a connection: begins it at once if its message has arrived, delays it, or refuses it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, StatusCode};

use super::client::Client;
use super::lone::Template;
use super::thread::ConnectionThread;
use crate::calls::{self, Arrived, Opening, Outcome, Respond, deadline_after, until};
use crate::grpc::{self, CallHeaders, Encoding, Messages, Status, UNIMPLEMENTED};
use crate::memory::Place;
use crate::traces::Method as Traced;

/// The maximum number of bytes that are read from a request that is not gRPC before it is refused.
const ENOUGH: usize = 64 << 10;

const NOT_GRPC: &[u8] = b"This port accepts only gRPC: a POST with the content-type application/grpc.\n";

impl Client {
    /// Begins a call: at once if its only message has already arrived. Returns the template of calls with the same
    /// headers, if `learns` asks for it and there is one.
    pub fn open(
        &self,
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        learns: bool,
    ) -> Option<Template> {
        let shared = &self.thread.shared;
        if shared.stopping.load(Ordering::Relaxed) {
            // The client sent the call before it knew that this server is stopping. gRPC sends such a call again,
            // to another server.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return None;
        }
        let (head, body) = request.into_parts();
        let said = CallHeaders::of(&head.headers);
        if head.method != Method::POST || !said.is_grpc {
            tokio::spawn(refuse(body, respond));
            return None;
        }
        let timeout = said.timeout.as_ref().ok().copied().flatten();
        let (opening, encoding) = match self.opening(head, said) {
            Ok(opening) => opening,
            Err(status) => {
                let _ = respond.send_response(status.response(), true);
                return None;
            }
        };
        let template = learns.then(|| self.template(&opening, encoding, timeout)).flatten();
        let limits = shared.limits.messages();
        let mut messages = Messages::new(body, encoding, limits, opening.memory.clone(), !opening.streaming);
        if self.share.outgoing.is_full() {
            if !opening.streaming {
                messages.begin();
            }
            match opening.memory.hold() {
                Some(place) => drop(tokio::spawn(hold(place, self.thread.clone(), opening, messages, respond))),
                None => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
            }
            return template;
        }
        let message = if opening.streaming { None } else { arrived(&mut messages) };
        if message.is_none() && !opening.streaming {
            messages.begin();
            tokio::spawn(dispatch_late(self.thread.clone(), opening, messages, respond));
        } else {
            dispatch(&self.thread, opening, messages, respond, message);
        }
        template
    }

    fn opening(&self, mut head: http::request::Parts, said: CallHeaders) -> Result<(Opening, Encoding), Status> {
        let shared = &self.thread.shared;
        let Some(&(method, streaming)) = shared.methods.get(head.uri.path()) else {
            return Err(Status::new(UNIMPLEMENTED, "Method not found!"));
        };
        said.check_size(shared.limits.max_metadata_size)?;
        let deadline = deadline_after(said.timeout?);
        let encoding = said.encoding?;
        let memory = self.call_memory(&head.headers).ok_or_else(|| Status::no_memory(self.share.budget()))?;
        let rpc = || Traced::Rpc(head.uri.path().trim_start_matches('/').to_owned());
        let traced = if streaming { None } else { shared.traced(&mut head.headers, rpc) };
        let opening = Opening {
            method,
            streaming,
            deadline,
            peer: self.address.clone(),
            identity: self.identity.clone(),
            encoding: Encoding::of_response(&head.headers, shared.limits.compression),
            max_send: shared.limits.max_send_message,
            memory,
            traced,
            headers: head.headers,
        };
        Ok((opening, encoding))
    }
}

/// Delays a call of a client that has too many unread answers. Its message is not read, so that the client can
/// meanwhile send no more than the connection's window.
async fn hold(
    place: Place,
    thread: Arc<ConnectionThread>,
    opening: Opening,
    messages: Messages,
    respond: SendResponse<Bytes>,
) {
    tokio::select! {
        () = place.room() => {}
        () = until(opening.deadline) => {}
    }
    drop(place);
    if opening.streaming {
        dispatch(&thread, opening, messages, respond, None);
    } else {
        dispatch_late(thread, opening, messages, respond).await;
    }
}

/// Sends an HTTP error to a client that does not speak gRPC, once its request, or enough of it, has arrived.
async fn refuse(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut received = 0;
    while let Some(data) = body.data().await {
        let len = data?.len();
        body.flow_control().release_capacity(len)?;
        received += len;
        if received > ENOUGH {
            break;
        }
    }
    let mut stream = respond.send_response(grpc::http_refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE), false)?;
    stream.send_data(Bytes::from_static(NOT_GRPC), true)
}

/// Handles a call whose only message has not completely arrived yet.
async fn dispatch_late(
    thread: Arc<ConnectionThread>,
    opening: Opening,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
) {
    let message = tokio::select! {
        biased;
        message = messages.only() => message,
        () = until(opening.deadline) => {
            // Fails only if the client has gone.
            let _ = respond.send_response(Status::deadline_exceeded().response(), true);
            return;
        }
    };
    dispatch(&thread, opening, messages, respond, Some(message));
}

/// Adds a plain call to the queue, answers a call that has been answered before, and gives every other call to its
/// handler.
fn dispatch(
    thread: &ConnectionThread,
    opening: Opening,
    messages: Messages,
    respond: SendResponse<Bytes>,
    message: Arrived,
) {
    let shared = &thread.shared;
    let (message, respond) = match message {
        Some(Ok(message)) if shared.plain.may_take(&opening) => {
            match shared.plain.put(&opening, message, Respond::Stream(respond), &thread.outbox) {
                Outcome::Waits { wake } => return thread.busy_poll.grpc_task_waits(wake),
                Outcome::NoMemory => return,
                Outcome::Refused { signature, why, seconds } => {
                    return shared.ended.add_refused(&signature, why, seconds);
                }
                Outcome::ForPython(message, Respond::Stream(respond)) => (Some(Ok(message)), respond),
                Outcome::ForPython(_, Respond::Lone(_)) => return, // never happens: the stream is returned unchanged
            }
        }
        message if opening.traced.is_some() || shared.plain.is_guarded() => (message, respond),
        message => match shared.handlers.questions.find(&opening, &message) {
            Some(answer) => return answer.send(&opening, respond, &shared.ended),
            None => (message, respond),
        },
    };
    tokio::spawn(calls::run(shared.handlers.clone(), opening, messages, respond, message));
}

/// Returns the only message of a call, or why it cannot be read; None if not all of its bytes have arrived.
fn arrived(messages: &mut Messages) -> Arrived {
    let only = pin!(messages.only());
    match only.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => Some(message),
        Poll::Pending => None,
    }
}

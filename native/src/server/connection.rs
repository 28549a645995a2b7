//! One connection: its calls, each begun at once where its message has come, and its end.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, Method, Request, StatusCode};

use crate::bridge::queue::Task;
use crate::calls::exchange::{self, Arrived, Opening};
use crate::grpc::{self, DEADLINE_EXCEEDED, Encoding, Messages, Status, UNIMPLEMENTED};
use crate::http2::lifetime::{Due, Life};
use crate::http2::outgoing::{Held, Outgoing};
use crate::http2::socket::Accepted;
use crate::http2::stream::{Signs, Stream, Watched};
use crate::http2::tls::Certified;
use crate::protobuf::rope::Rope;
use crate::queue::{Refusal, Waiting};
use crate::server::thread::{Home, Stop, stopped};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_FRAME: u32 = 256 << 10;
/// Calls that come together with their cancellation: a client that gives up on a fan-out is no attacker yet.
const CANCELLED_AT_ONCE: usize = 200;
/// Times the metadata that a call may have: so much is read, to be refused in gRPC's words; h2 ends a connection over more.
const METADATA_HEARD: u32 = 16;
const ENOUGH: usize = 64 << 10;
const NOT_GRPC: &[u8] = b"This port speaks gRPC, and this is none: POST with content-type application/grpc.\n";

/// Carries a connection until its caller closes it, it breaks, or it is at its end.
pub async fn carry(accepted: Accepted, tls: Option<Arc<Certified>>, home: Arc<Home>, stop: Stop) {
    let peer = Peer { name: accepted.peer.clone(), home, outgoing: Arc::default() };
    let signs = Arc::new(Signs::default());
    let greeted = tokio::select! {
        greeted = tokio::time::timeout(HANDSHAKE_WITHIN, peer.greet(accepted, tls, signs.clone())) => greeted,
        _ = stopped(stop.clone()) => return, // it has called nothing yet
    };
    if let Ok(Some(http2)) = greeted {
        // What breaks a connection is the caller's affair, and has ended its calls.
        let _ = peer.serve(http2, signs, stop).await;
    }
}

struct Peer {
    name: Arc<str>,
    home: Arc<Home>,
    outgoing: Arc<Outgoing>,
}

impl Peer {
    async fn greet(
        &self,
        accepted: Accepted,
        tls: Option<Arc<Certified>>,
        signs: Arc<Signs>,
    ) -> Option<Connection<Watched, Bytes>> {
        let socket = accepted.enter().ok()?;
        let stream = match tls {
            Some(tls) => Stream::Secured(Box::new(tls.greet(socket).await?)),
            None => Stream::Plain(socket),
        };
        let limits = &self.home.shared.limits;
        h2::server::Builder::new()
            .max_concurrent_streams(limits.max_concurrent_streams)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .max_pending_accept_reset_streams(CANCELLED_AT_ONCE)
            .max_header_list_size(limits.max_metadata_size.saturating_mul(METADATA_HEARD))
            .handshake(Watched::new(stream, signs))
            .await
            .ok()
    }

    async fn serve(
        &self,
        mut http2: Connection<Watched, Bytes>,
        signs: Arc<Signs>,
        stop: Stop,
    ) -> Result<(), h2::Error> {
        let mut life = Life::new(&self.home.shared.limits, signs.clone(), &mut http2);
        let mut stopping = pin!(stopped(stop));
        let mut stopped = false;
        loop {
            let next = poll_fn(|context| match http2.poll_accept(context) {
                Poll::Ready(call) => Poll::Ready(Ok(call)),
                Poll::Pending => life.poll(context, &http2).map(Err),
            });
            tokio::select! {
                biased;
                next = next => match next {
                    Ok(Some(Ok((request, respond)))) => self.open(request, respond),
                    Ok(Some(Err(error))) => return Err(error),
                    Ok(None) | Err(Due::Close) => return Ok(()),
                    Err(Due::Drain) => http2.graceful_shutdown(),
                    Err(Due::Calm) => signs.calm(),
                },
                _ = &mut stopping, if !stopped => {
                    stopped = true;
                    http2.graceful_shutdown();
                }
            }
        }
    }

    /// Begins a call: at once where its only message has come already.
    fn open(&self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        let shared = &self.home.shared;
        if shared.stopping.load(Ordering::Relaxed) {
            // It was sent before the caller knew; gRPC sends it again, elsewhere.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return;
        }
        let (head, body) = request.into_parts();
        if head.method != Method::POST || !grpc::is_grpc(&head.headers) {
            tokio::spawn(refuse(body, respond));
            return;
        }
        let (opening, encoding) = match self.opening(head) {
            Ok(opening) => opening,
            Err(status) => {
                let _ = respond.send_response(status.response(), true);
                return;
            }
        };
        let mut messages = Messages::new(body, encoding, shared.limits.max_receive_message);
        if self.outgoing.is_full() {
            match self.outgoing.hold() {
                Some(held) => drop(tokio::spawn(hold(held, self.home.clone(), opening, messages, respond))),
                None => respond.send_reset(h2::Reason::ENHANCE_YOUR_CALM),
            }
            return;
        }
        let message = if opening.streaming { None } else { arrived(&mut messages) };
        if message.is_none() && Some(opening.method) == shared.predict {
            tokio::spawn(predict_late(self.home.clone(), opening, messages, respond));
        } else {
            dispatch(&self.home, opening, messages, respond, message);
        }
    }

    fn opening(&self, head: http::request::Parts) -> Result<(Opening, Encoding), Status> {
        let shared = &self.home.shared;
        let Some(&(method, streaming)) = shared.methods.get(head.uri.path()) else {
            return Err(Status::new(UNIMPLEMENTED, "Method not found!"));
        };
        grpc::check_size(&head.headers, shared.limits.max_metadata_size)?;
        let deadline = grpc::timeout(&head.headers)?.map(|timeout| Instant::now() + timeout);
        let encoding = Encoding::of_request(&head.headers)?;
        let opening = Opening {
            method,
            streaming,
            deadline,
            peer: self.name.clone(),
            encoding: Encoding::of_response(&head.headers, shared.limits.compression),
            max_send: shared.limits.max_send_message,
            outgoing: self.outgoing.clone(),
            headers: head.headers,
        };
        Ok((opening, encoding))
    }
}

/// A call of a caller for whom too many answers wait. Its message is not read, so that the caller can send no more than
/// the connection's window meanwhile.
async fn hold(held: Held, home: Arc<Home>, opening: Opening, messages: Messages, respond: SendResponse<Bytes>) {
    tokio::select! {
        () = held.room() => {}
        () = exchange::until(opening.deadline) => {}
    }
    drop(held);
    if Some(opening.method) == home.shared.predict {
        predict_late(home, opening, messages, respond).await;
    } else {
        dispatch(&home, opening, messages, respond, None);
    }
}

/// Answers who does not speak gRPC, in HTTP's words, when all has come that it says or enough of it.
async fn refuse(mut body: h2::RecvStream, mut respond: SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut heard = 0;
    while let Some(data) = body.data().await {
        let len = data?.len();
        body.flow_control().release_capacity(len)?;
        heard += len;
        if heard > ENOUGH {
            break;
        }
    }
    let mut stream = respond.send_response(grpc::http_refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE), false)?;
    stream.send_data(Bytes::from_static(NOT_GRPC), true)
}

/// A Predict whose message has not all come yet.
async fn predict_late(home: Arc<Home>, opening: Opening, mut messages: Messages, mut respond: SendResponse<Bytes>) {
    let message = tokio::select! {
        biased;
        message = messages.only() => message,
        () = exchange::until(opening.deadline) => {
            let late = Status::new(DEADLINE_EXCEEDED, "Deadline Exceeded");
            // Fails only where the caller has gone.
            let _ = respond.send_response(late.response(), true);
            return;
        }
    };
    dispatch(&home, opening, messages, respond, Some(message));
}

/// Puts a plain Predict into the queue, and gives every other call to its handler.
fn dispatch(home: &Arc<Home>, opening: Opening, messages: Messages, respond: SendResponse<Bytes>, message: Arrived) {
    let plain = Some(opening.method) == home.shared.predict && opening.encoding == Encoding::Identity;
    let (message, respond) = match message {
        Some(Ok(message)) if plain => match predict(home, &opening, message, respond) {
            Some((message, respond)) => (Some(Ok(message)), respond),
            None => return,
        },
        message => (message, respond),
    };
    tokio::spawn(exchange::run(home.shared.inbox.clone(), opening, messages, respond, message));
}

/// Puts a plain Predict into the queue; hands back what it is not for it to judge.
fn predict(
    home: &Home,
    opening: &Opening,
    message: Rope,
    respond: SendResponse<Bytes>,
) -> Option<(Rope, SendResponse<Bytes>)> {
    let Some(plain) = home.shared.routes.get().read(&message) else { return Some((message, respond)) };
    let (route, key, rows, row_bytes) = (plain.route.clone(), plain.key.clone(), plain.rows, plain.row_bytes());
    let lane = &route.get().lane;
    let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
    let task = Task::Native(Box::new(plain.into_task(message, respond, opening.outgoing.clone())));
    let waiting = Waiting::new(task, rows, row_bytes, deadline, priority(&opening.headers));
    match lane.put(key, waiting, Instant::now()) {
        Ok(wake) => {
            if wake {
                home.wake_when_it_rests();
            }
            None
        }
        Err((Refusal::Full(reason), Task::Native(task))) => {
            home.shared.count_refused(&route, task.seconds());
            task.refuse(&route.get().full(&reason));
            None
        }
        // The version is being unloaded: there may be another by now.
        Err((_, Task::Native(task))) => Some(task.into_parts()),
        Err((_, Task::Python(_))) => None,
    }
}

/// 1 for a call that lets the others go first.
fn priority(headers: &HeaderMap) -> usize {
    usize::from(headers.get_all("headrace-priority").iter().any(|value| value == "low"))
}

/// The only message of a call, or what is wrong with it, where all its bytes have come.
fn arrived(messages: &mut Messages) -> Arrived {
    let only = pin!(messages.only());
    match only.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => Some(message),
        Poll::Pending => None,
    }
}

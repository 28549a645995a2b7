//! Lets Python answer a request: its bytes are passed to Python, and an answer comes back.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::answer::{Answer, Content, Prepared, answer, with_content};
use super::endpoint::Endpoint;
use super::intake::{Body, SMALL};
use super::pieces::{Pieces, Waits};
use super::python_request::{Came, Event, Held, Keep, Reply, Request};
use super::unread::Unread;
use crate::bridge::Count;
use crate::calls::{Inbox, Kind};
use crate::kept::{Answer as KeptAnswer, MAX_QUESTION};
use crate::memory;
use crate::security::Identity;

/// Lets Python answer a request; None if there is no memory for it. If the future is dropped while it waits, Python is
/// notified that the request has been cancelled.
pub async fn ask_python(endpoint: &Endpoint, (head, identity): (Parts, Arc<Identity>), body: Body) -> Option<Answer> {
    let asked = question(&head, &body).map(|target| (endpoint.kept.state(), target.to_owned()));
    if !body.memory.grow(memory::Kind::Received, body.bytes.len()) {
        return None; // Python has a copy of its own
    }
    let (reply, replied) = oneshot::channel();
    let request = Arc::new(Request {
        head,
        identity,
        is_gzip: body.is_gzip,
        size: body.bytes.len(),
        memory: body.memory.clone(),
        body: Mutex::new(held(body).await),
        reply: Mutex::new(Some(reply)),
        pieces: Mutex::default(),
        owner: Mutex::default(),
    });
    let mut waiting = Waiting { inbox: endpoint.inbox.clone(), request, waits: true };
    waiting.tell(Kind::Begin);
    match replied.await {
        Ok(Reply { status, headers, body: Came::Whole(body), keep }) => {
            waiting.over();
            if let Some((Keep { count, until }, (state, target))) = keep.zip(asked) {
                let prepared = Prepared::new(status, headers.clone(), body.clone());
                let bytes = target.len() + prepared.size();
                let answer = (Arc::new(prepared), Arc::new(Count::new(count)));
                endpoint.kept.put(state, target, KeptAnswer { answer, bytes, until });
            }
            let memory = waiting.request.memory.clone();
            memory.drop_request();
            Unread::hold(body, memory).ok().map(|body| answer(status, headers, body.into()))
        }
        Ok(Reply { status, headers, body: Came::Pieces(coming), .. }) => {
            Some(with_content(status, headers, Content::Pieces(Pieces::new(coming, Box::new(waiting)))))
        }
        Err(_) => Some(answer(StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new())),
    }
}

/// The part of a request that selects a kept answer: the path and query of a GET without a body. None if no kept answer
/// may be used.
pub fn question<'a>(head: &'a Parts, body: &Body) -> Option<&'a str> {
    let target = head.uri.path_and_query()?.as_str();
    (head.method == Method::GET && body.bytes.is_empty() && target.len() <= MAX_QUESTION).then_some(target)
}

/// Stores a body until Python takes it. A large one is written to a file, on another thread; if no file can be created,
/// it stays in memory.
async fn held(body: Body) -> Held {
    if body.bytes.len() <= SMALL {
        return Held::Memory(body.bytes);
    }
    let bytes = body.bytes.clone();
    match spawn_blocking(|| body.into_file()).await {
        Ok(Ok(file)) => Held::File(file),
        _ => Held::Memory(bytes),
    }
}

/// A request that waits for Python's answer.
struct Waiting {
    inbox: Arc<Inbox<Event>>,
    request: Arc<Request>,
    waits: bool,
}

impl Waiting {
    /// Tells Python about an event of the request.
    fn tell(&self, kind: Kind) {
        self.inbox.push(Event { kind, request: Some(self.request.clone()) });
    }
}

impl Waits for Waiting {
    fn piece_sent(&self) {
        self.tell(Kind::Sent);
    }

    fn over(&mut self) {
        self.waits = false;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.waits {
            self.tell(Kind::Cancelled);
        }
    }
}

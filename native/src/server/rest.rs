//! What becomes of each request of an HTTP port: a plain :predict goes into its queue, all else to Python.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::task::spawn_blocking;

use super::shared::Shared;
use super::thread::ConnectionThread;
use crate::bridge::{NativeTask, Signature, Task};
use crate::calls::until;
use crate::grpc::{RESOURCE_EXHAUSTED, Status};
use crate::http::{self as transport, Answer, Endpoint, Missing, SMALL, answer};
use crate::memory::{CallMemory, Kind, Share};
use crate::predict::Input;
use crate::queue::{Entry, Refusal};
use crate::rest::{self, Body, Call, Declares, Mailbox, Predict};

/// Answers the requests of one connection.
#[derive(Clone)]
pub struct Rest {
    pub thread: Arc<ConnectionThread>,
    endpoint: Arc<Endpoint>,
    share: Arc<Share>,
}

/// A route that calls over REST may take.
struct Target {
    lane: crate::bridge::Lane,
    signature: Arc<Signature>,
}

impl Declares for Target {
    fn inputs(&self) -> &[Input] {
        &self.signature.inputs
    }

    fn max_rows(&self) -> usize {
        self.signature.max_rows
    }
}

impl Rest {
    pub fn new(thread: Arc<ConnectionThread>, endpoint: Arc<Endpoint>) -> Self {
        let share = Arc::new(Share::new(thread.shared.budget.clone()));
        Self { thread, endpoint, share }
    }

    pub async fn answer(self, request: Request<Incoming>) -> Answer {
        let (head, incoming) = request.into_parts();
        let stopping = || self.thread.shared.stopping.load(Ordering::Relaxed);
        let memory = Arc::new(CallMemory::new(self.share.clone()));
        let bounds = transport::Bounds { size: self.endpoint.max_body, stall: self.thread.shared.limits.stall };
        let body = match transport::Body::take(&head.headers, incoming, bounds, memory, stopping).await {
            Ok(body) => body,
            Err(Missing::TooLarge) => return self.endpoint.too_large.answer(),
            Err(Missing::NoMemory) => return self.no_memory(),
            Err(Missing::Gone) => return answer(StatusCode::BAD_REQUEST, HeaderMap::new(), Bytes::new()),
        };
        match self.predict(&head, &body).await {
            Some(answer) => answer,
            None => match transport::ask_python(self.endpoint.inbox.clone(), head, body).await {
                Some(answer) => answer,
                None => self.no_memory(),
            },
        }
    }

    /// The answer to a plain :predict; None for any other request.
    async fn predict(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        let came = Instant::now();
        let is_plain = head.method == Method::POST && head.uri.query().is_none();
        let asked = Predict::of(head.uri.path()).filter(|_| is_plain)?;
        let (shared, memory) = (&self.thread.shared, body.memory.clone());
        let body = if body.bytes.len() <= SMALL && !body.is_gzip {
            read(shared, &asked, body)?
        } else {
            // Other requests live on this thread.
            let (shared, body, path) = (shared.clone(), body.clone(), head.uri.clone());
            spawn_blocking(move || read(&shared, &Predict::of(path.path())?, &body)).await.ok()??
        };
        self.put(body, memory, came)?.answer().await
    }

    fn no_memory(&self) -> Answer {
        rest::refusal(&self.endpoint, &Status::no_memory(self.share.budget()))
    }

    /// Puts a call into its queue; None where its version is being unloaded: there may be another by now.
    fn put(&self, body: Body<Target>, memory: Arc<CallMemory>, came: Instant) -> Option<Pending> {
        let Target { lane, signature } = body.signature;
        let inner = || body.columns.iter().map(|column| &*column.inner);
        let (key, row_bytes) = (signature.key(inner(), None), signature.row_bytes(inner()));
        let mailbox = Arc::new(Mailbox::new(self.thread.wakes.clone()));
        let mut pending = Pending { rest: self.clone(), signature, mailbox: mailbox.clone(), came, refused: None };
        if !memory.set(Kind::Answers, pending.signature.expected_answer(body.rows)) {
            pending.refused = Some(Status::no_memory(self.share.budget()));
            return Some(pending);
        }
        let endpoint = self.endpoint.clone();
        let call = Call { columns: body.columns, by_row: body.by_row, endpoint, mailbox, memory, encoded: None };
        let task = NativeTask::new(pending.signature.clone(), body.rows, Box::new(call)).since(came);
        // Its deadline is for who waits: a call that nobody waits for leaves the queue by itself.
        let entry = Entry::new(Task::Native(task), body.rows, row_bytes, None, 0);
        match lane.put_native(key, entry, Instant::now()) {
            Ok(true) => self.thread.busy_poll.wake_before_park(),
            Ok(false) => {}
            Err((Refusal::Full(full), _)) => pending.refused = Some(pending.signature.full(&lane.reason(&full))),
            Err((Refusal::Closed, _)) => return None,
        }
        Some(pending)
    }
}

fn read(shared: &Shared, asked: &Predict<'_>, body: &transport::Body) -> Option<Body<Target>> {
    let find = |signature: &[u8]| {
        let route = shared.plain.routes().named(asked.model.as_bytes(), asked.version, signature)?;
        Some(Target { signature: route.rest?, lane: route.lane })
    };
    Body::read(&body.content()?, find)
}

/// A call that waits.
struct Pending {
    rest: Rest,
    signature: Arc<Signature>,
    mailbox: Arc<Mailbox>,
    came: Instant,
    refused: Option<Status>,
}

impl Pending {
    async fn answer(self) -> Option<Answer> {
        let (endpoint, ended) = (&self.rest.endpoint, &self.rest.thread.shared.ended);
        if let Some(status) = &self.refused {
            if status.code != RESOURCE_EXHAUSTED {
                ended.add_refused(&self.signature, self.came.elapsed().as_secs_f64());
            }
            return Some(rest::refusal(endpoint, status));
        }
        let mut comes = poll_fn(|context| self.mailbox.poll(context));
        let deadline = endpoint.timeout.map(|timeout| Instant::now() + timeout);
        tokio::select! {
            biased;
            answer = &mut comes => return Some(answer),
            () = until(deadline) => {}
        }
        if !self.mailbox.close() {
            return Some(comes.await);
        }
        ended.add_late(&self.signature, self.came.elapsed().as_secs_f64());
        Some(endpoint.late.answer())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

//! What happens to each request of an HTTP port: a plain :predict or infer goes into its queue, everything else to
//! Python.

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
use crate::bridge::{Lane, NativeTask, PendingCall, Signature, Task};
use crate::calls::until;
use crate::grpc::{RESOURCE_EXHAUSTED, Status};
use crate::http::{self as transport, Answer, Endpoint, Missing, SMALL, answer};
use crate::memory::{CallMemory, Kind, Share};
use crate::predict::Input;
use crate::queue::{Entry, Full, Key, Refusal};
use crate::rest::{self, Body, Call, Declares, Mailbox, ModelPath};
use crate::security::{Admitted, Identity};

/// Answers the requests of one connection.
#[derive(Clone)]
pub struct Rest {
    pub thread: Arc<ConnectionThread>,
    pub(super) identity: Arc<Identity>,
    pub(super) endpoint: Arc<Endpoint>,
    share: Arc<Share>,
}

/// A route that calls over REST may take.
struct Target {
    lane: Lane,
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
        Self { thread, identity: Arc::default(), endpoint, share }
    }

    /// The same for the caller of a connection.
    pub fn of(self, identity: Identity) -> Self {
        Self { identity: Arc::new(identity), ..self }
    }

    pub async fn answer(self, request: Request<Incoming>) -> Answer {
        let (mut head, incoming) = request.into_parts();
        let stopping = || self.thread.shared.stopping.load(Ordering::Relaxed);
        let memory = Arc::new(CallMemory::new(self.share.clone()));
        let bounds = transport::Bounds { size: self.endpoint.max_body, stall: self.thread.shared.limits.stall };
        let body = match transport::Body::take(&head.headers, incoming, bounds, memory, stopping).await {
            Ok(body) => body,
            Err(Missing::TooLarge) => return self.endpoint.too_large.answer(),
            Err(Missing::NoMemory) => return self.no_memory(),
            Err(Missing::Gone) => return answer(StatusCode::BAD_REQUEST, HeaderMap::new(), Bytes::new()),
        };
        let traced = self.thread.shared.is_traced(&mut head.headers);
        let plain = if traced { None } else { self.without_python(&head, &body).await };
        match plain {
            Some(answer) => answer,
            None => match transport::ask_python(&self.endpoint, (head, self.identity.clone()), body).await {
                Some(answer) => answer,
                None => self.no_memory(),
            },
        }
    }

    async fn without_python(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        if let Some(answer) = self.answered_before(head, body) {
            return Some(answer);
        }
        match self.predict(head, body).await {
            None => self.infer(head, body).await,
            answer => answer,
        }
    }

    /// The kept answer to the same request, if it is still valid.
    fn answered_before(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        if self.thread.shared.plain.is_guarded() {
            return None;
        }
        let came = Instant::now();
        let (prepared, count) = self.endpoint.kept.find(transport::question(head, body)?)?;
        self.thread.shared.ended.add_answered(&count, came.elapsed().as_secs_f64());
        Some(prepared.answer())
    }

    /// The answer to a plain :predict; None for any other request.
    async fn predict(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        let came = Instant::now();
        let is_plain = head.method == Method::POST && head.uri.query().is_none();
        let asked = ModelPath::of_predict(head.uri.path()).filter(|_| is_plain)?;
        let (shared, memory) = (&self.thread.shared, body.memory.clone());
        let body = if body.bytes.len() <= SMALL && !body.is_gzip {
            read(shared, &asked, body)?
        } else {
            // Other requests live on this thread.
            let (shared, body, path) = (shared.clone(), body.clone(), head.uri.clone());
            spawn_blocking(move || read(&shared, &ModelPath::of_predict(path.path())?, &body)).await.ok()??
        };
        self.put(&head.headers, body, memory, came)?.answer().await
    }

    /// Admits a call of so many rows, and says whether it lets the others go first; None where Python is to decide.
    pub(super) fn admit(&self, headers: &HeaderMap, signature: &Signature, rows: usize) -> Option<(Admitted, bool)> {
        self.thread.shared.plain.admit(&self.identity, headers, signature, rows)
    }

    fn no_memory(&self) -> Answer {
        rest::refusal(&self.endpoint, &Status::no_memory(self.share.budget()))
    }

    /// Puts a call into its queue; None where it may share no batch, or its version is being unloaded: there may be another
    /// by now.
    fn put(&self, headers: &HeaderMap, body: Body<Target>, memory: Arc<CallMemory>, came: Instant) -> Option<Pending> {
        let Target { lane, signature } = body.signature;
        let inner = || body.columns.iter().map(|column| &*column.inner);
        let copy = |input: usize, target: &mut [u8]| target.copy_from_slice(&body.columns[input].bytes);
        let (key, row_bytes) = (signature.key(body.rows, inner(), copy, None)?, signature.row_bytes(inner()));
        // Only now, as it counts: Python admits what goes there.
        let admitted = self.admit(headers, &signature, body.rows)?;
        let pending = Pending::new(self, Api::TfServing, signature, came, admitted);
        let (columns, by_row, endpoint) = (body.columns, body.by_row, self.endpoint.clone());
        pending.put(&lane, key, (body.rows, row_bytes), memory.clone(), |mailbox| {
            Box::new(Call { columns, by_row, endpoint, mailbox, memory, encoded: None })
        })
    }
}

fn read(shared: &Shared, asked: &ModelPath<'_>, body: &transport::Body) -> Option<Body<Target>> {
    let find = |signature: &[u8]| {
        let route = shared.plain.routes().named(asked.model.as_bytes(), asked.version, signature)?;
        Some(Target { signature: route.rest.clone()?, lane: route.lane.clone() })
    };
    Body::read(&body.content()?, find)
}

/// Whose words a call is answered in.
pub(super) enum Api {
    TfServing,
    /// With the request's id.
    OpenInference(String),
}

impl Api {
    fn refusal(&self, endpoint: &Endpoint, status: &Status) -> Answer {
        match self {
            Self::TfServing => rest::refusal(endpoint, status),
            Self::OpenInference(_) => rest::infer::refusal(endpoint, status),
        }
    }

    fn late(&self, endpoint: &Endpoint) -> Answer {
        match self {
            Self::TfServing => endpoint.late.answer(),
            Self::OpenInference(_) => endpoint.infer.late.answer(),
        }
    }

    /// What is put into the text of a full queue: its reason, or whose request found it so.
    fn reason_of_full(&self, reason: &str) -> String {
        match self {
            Self::TfServing => reason.to_owned(),
            Self::OpenInference(id) if id.is_empty() => "<id_unknown>".to_owned(),
            Self::OpenInference(id) => id.clone(),
        }
    }
}

/// A call that waits.
pub(super) struct Pending {
    rest: Rest,
    api: Api,
    signature: Arc<Signature>,
    mailbox: Arc<Mailbox>,
    came: Instant,
    /// How it ends that was not put, and whether that is for the latency objective.
    refused: Option<(Status, bool)>,
    admitted: Admitted,
    priority: usize,
}

impl Pending {
    pub(super) fn new(
        rest: &Rest,
        api: Api,
        signature: Arc<Signature>,
        came: Instant,
        (admitted, low): (Admitted, bool),
    ) -> Self {
        let mailbox = Arc::new(Mailbox::new(rest.thread.wakes.clone()));
        let priority = usize::from(low);
        Self { rest: rest.clone(), api, signature, mailbox, came, refused: None, admitted, priority }
    }

    /// Puts the call that is made around its mailbox into its queue; its size is in rows, and in bytes of a row.
    ///
    /// None where its version is being unloaded: there may be another by now.
    pub(super) fn put(
        mut self,
        lane: &Lane,
        key: Key,
        (rows, row_bytes): (usize, usize),
        memory: Arc<CallMemory>,
        call: impl FnOnce(Arc<Mailbox>) -> Box<dyn PendingCall>,
    ) -> Option<Self> {
        if !memory.set(Kind::Answers, self.signature.expected_answer(rows)) {
            self.admitted.give_rows_back();
            self.refused = Some((Status::no_memory(self.rest.share.budget()), false));
            return Some(self);
        }
        let call = call(self.mailbox.clone());
        let task = NativeTask::new(self.signature.clone(), rows, call, self.came);
        // The deadline only matters to a waiting caller: a call that nothing waits for leaves the queue by itself.
        let entry = Entry::new(Task::Native(task), rows, row_bytes, None, self.priority);
        match lane.put_native(key, entry, Instant::now()) {
            Ok(true) => self.rest.thread.busy_poll.wake_before_park(),
            Ok(false) => self.rest.thread.shared.ended.activity.note(),
            Err((Refusal::Full(full), _)) => {
                let (reason, missed) = (lane.reason(&full), matches!(full, Full::Objective));
                let named = self.api.reason_of_full(&reason);
                self.admitted.give_rows_back();
                self.refused = Some((self.signature.full(&named, missed.then_some(&reason)), missed));
            }
            Err((Refusal::Closed, _)) => {
                std::mem::take(&mut self.admitted).undo();
                return None;
            }
        }
        Some(self)
    }

    pub(super) async fn answer(self) -> Option<Answer> {
        let (endpoint, ended) = (&self.rest.endpoint, &self.rest.thread.shared.ended);
        if let Some((status, missed)) = &self.refused {
            if status.code != RESOURCE_EXHAUSTED {
                ended.add_refused(&self.signature, *missed, self.came.elapsed().as_secs_f64());
            }
            return Some(self.api.refusal(endpoint, status));
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
        Some(self.api.late(endpoint))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

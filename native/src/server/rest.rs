//! Handles each request of an HTTP port: puts a plain call into its queue, and gives everything else to Python.

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, StatusCode};
use hyper::body::Incoming;
use tokio::task::spawn_blocking;

use super::pending::{Api, Pending, Place};
use super::shared::Shared;
use super::thread::ConnectionThread;
use crate::bridge::{Choice, Examples, Inference, Lane, Signature};
use crate::calls::{Arrays, Protocol, Understood};
use crate::examples::Input;
use crate::grpc::Status;
use crate::http::{self as transport, Answer, Answers, Endpoint, Missing, PlainCall, PlainRequest, SMALL, answer};
use crate::http2::AfterPause;
use crate::memory::{Budget, CallMemory, NoMemory, Share};
use crate::predict::{Column, Input as Declared};
use crate::rest::{self, Body, Call, Connection, Declares, ExamplesBody, ModelPath, Reply, Verb};
use crate::security::{Admission, Admitted, Asked, Identity, LARGE};
use crate::traces::{Begun, Method};

/// Answers the requests of one connection.
#[derive(Clone)]
pub struct Rest {
    common: Arc<Common>,
    /// The trace of the request that this answers, if the request is traced.
    pub(super) traced: Option<Arc<Begun>>,
}

/// The data that the requests of a connection share.
pub struct Common {
    pub thread: Arc<ConnectionThread>,
    pub(super) identity: Arc<Identity>,
    pub(super) connection: Arc<Connection>,
    share: Arc<Share>,
}

impl Deref for Rest {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Common {
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.connection.endpoint
    }
}

/// A route that calls over REST may use.
struct Target {
    lane: Lane,
    signature: Arc<Signature>,
}

/// A plain call: its route, its arrays, and how it is answered.
struct Plain {
    target: Target,
    columns: Vec<Column>,
    rows: usize,
    /// The wanted outputs; None means all.
    choice: Option<Choice>,
    reply: Reply,
}

impl Declares for Target {
    fn inputs(&self) -> &[Declared] {
        &self.signature.inputs
    }

    fn max_rows(&self) -> usize {
        self.signature.max_rows
    }

    fn batched(&self) -> bool {
        self.signature.batched
    }
}

impl Rest {
    /// Creates the object that answers the requests of a new connection, whose client is `identity`.
    pub fn new(thread: Arc<ConnectionThread>, endpoint: Arc<Endpoint>, identity: Identity) -> Self {
        let share = Arc::new(Share::new(thread.shared.budget.clone()));
        let connection = Arc::new(Connection { endpoint, wakes: thread.wakes.clone() });
        let common = Common { thread, identity: Arc::new(identity), connection, share };
        Self { common: Arc::new(common), traced: None }
    }

    async fn answer_any(mut self, request: Request<Incoming>) -> Answer {
        let (mut head, incoming) = request.into_parts();
        let stopping = || self.is_stopping();
        let memory = Arc::new(CallMemory::new(self.share.clone()));
        let bounds = transport::Bounds { size: self.endpoint().max_body, stall: self.thread.shared.limits.stall };
        let mut body =
            match transport::Body::take(&head.headers, incoming, bounds, (memory, &self.thread.spares), stopping).await
            {
                Ok(body) => body,
                Err(Missing::TooLarge) => return self.endpoint().too_large.answer(),
                Err(Missing::NoMemory(reason)) => return self.no_room(reason),
                Err(Missing::Gone) => return answer(StatusCode::BAD_REQUEST, HeaderMap::new(), Bytes::new()),
            };
        let post = || Method::Http(head.uri.path().to_owned());
        self.traced = self.thread.shared.traced(&mut head.headers, post);
        match self.without_python(&head, &mut body).await {
            Some(answer) => {
                body.release(&self.thread.spares);
                answer
            }
            None => match transport::ask_python(self.endpoint(), (head, self.identity.clone()), body).await {
                Some(answer) => answer,
                None => self.no_memory(),
            },
        }
    }

    async fn without_python(&self, head: &Parts, body: &mut transport::Body) -> Option<Answer> {
        if let Some(answer) = self.answered_before(head, body) {
            return Some(answer);
        }
        if head.method != http::Method::POST || head.uri.query().is_some() {
            return None;
        }
        let is_large = body.bytes.len() > LARGE || body.is_gzip;
        if is_large && !self.thread.shared.plain.knows(&self.identity, &head.headers) {
            return None;
        }
        match ModelPath::of_call(head.uri.path()) {
            Some(asked) => self.call(asked, head, body).await,
            None => self.infer(head, body).await,
        }
    }

    /// The kept answer to the same request, if it is still valid.
    fn answered_before(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        if self.thread.shared.plain.is_guarded() || self.traced.is_some() {
            return None;
        }
        let came = Instant::now();
        let (prepared, count) = self.endpoint().kept.find(transport::question(head, body)?, came)?;
        self.thread.shared.ended.add_answered(&count, came.elapsed().as_secs_f64());
        Some(prepared.answer())
    }

    /// The answer to a plain call of TensorFlow Serving's API; None for one that is not plain.
    async fn call(
        &self,
        (asked, verb): (ModelPath<'_>, Verb),
        head: &Parts,
        body: &mut transport::Body,
    ) -> Option<Answer> {
        let came = Instant::now();
        let (shared, memory) = (&self.thread.shared, body.memory.clone());
        let plain = if body.bytes.len() <= SMALL && !body.is_gzip {
            read(shared, (asked, verb), &body.content()?)?
        } else {
            // A large body is parsed on another thread, since other requests share this one.
            let (shared, body, path) = (shared.clone(), body.clone(), head.uri.clone());
            spawn_blocking(move || read(&shared, ModelPath::of_call(path.path())?, &body.content()?)).await.ok()??
        };
        let pending = self.put(&head.headers, verb, plain, memory, came)?;
        body.release(&self.thread.spares);
        Some(pending.answer().await)
    }

    /// Admits a call with this many rows, which arrived at this time, and returns whether it has low priority; None if
    /// Python must decide.
    ///
    /// `method` is the method's name in the audit log.
    pub(super) fn admit(
        &self,
        headers: &HeaderMap,
        method: &str,
        signature: &Signature,
        (rows, came): (usize, Instant),
    ) -> Option<(Admitted, bool)> {
        let asked = Asked { identity: &self.identity, headers, model: &signature.model, rows, method, peer: "", came };
        match self.thread.shared.plain.admit(&asked) {
            Admission::Admitted(admitted, low) => Some((admitted, low)),
            Admission::Exhausted { refused, .. } => {
                refused.undo();
                None
            }
            Admission::Unknown => None,
        }
    }

    pub(super) fn budget(&self) -> &Budget {
        self.share.budget()
    }

    fn no_memory(&self) -> Answer {
        self.no_room(NoMemory::Budget)
    }

    fn no_room(&self, reason: NoMemory) -> Answer {
        rest::refusal(self.endpoint(), &Status::no_room(reason, self.budget()))
    }

    /// Puts a call into its queue. Returns None if Python must handle the call, for one of three reasons: the call must
    /// run alone; Python must decide whether to admit it; or its version is being unloaded, and another version may
    /// already serve the model.
    fn put(
        &self,
        headers: &HeaderMap,
        verb: Verb,
        plain: Plain,
        memory: Arc<CallMemory>,
        came: Instant,
    ) -> Option<Pending> {
        let Plain { target: Target { lane, signature }, columns, rows, choice, reply } = plain;
        let inner = || columns.iter().map(|column| &*column.inner);
        let copy = |input: usize, target: &mut [u8]| target.copy_from_slice(&columns[input].bytes);
        let (key, row_bytes) = (signature.key(rows, inner(), copy, choice)?, signature.row_bytes(inner()));
        // This comes last because it counts the call: Python admits, and counts, the calls that it handles.
        let (admitted, low) = self.admit(headers, method_name(verb), &signature, (rows, came))?;
        let pending = Pending::new(self, Api::TfServing, signature, came, admitted);
        pending.put(Place { lane, key, rows, row_bytes, choice, low }, memory.clone(), |mailbox| {
            Box::new(Call { columns, reply, mailbox, memory, encoded: None })
        })
    }
}

/// The name of a method in the audit log, as in `audited` of `transports/http/observing.py`.
fn method_name(verb: Verb) -> &'static str {
    match verb {
        Verb::Predict => "HTTP predict",
        Verb::Classify => "HTTP classify",
        Verb::Regress => "HTTP regress",
    }
}

impl Answers for Rest {
    /// No call is plain if the server checks credentials: it would have to read the headers, which are not passed here.
    fn call(&self, PlainRequest { path, context, body }: PlainRequest<'_>) -> Option<impl PlainCall + use<>> {
        let came = Instant::now();
        let shared = &self.thread.shared;
        let (asked, verb) = ModelPath::of_call(path)?;
        if shared.plain.is_guarded() || body.len() > self.endpoint().max_body {
            return None;
        }
        // If the request turns out not to be plain, it is sampled again elsewhere; nothing has been recorded of it
        // here.
        let traced = shared.traced(&mut context.clone(), || Method::Http(path.to_owned()));
        let memory = Arc::new(CallMemory::new(self.share.clone()));
        if !memory.receive(body.len()) {
            return None;
        }
        let plain = read(shared, (asked, verb), body)?;
        Self { common: self.common.clone(), traced }.put(&HeaderMap::new(), verb, plain, memory, came)
    }

    fn head(&self) -> &[u8] {
        &self.endpoint().head
    }

    fn answer(self, request: Request<Incoming>) -> impl Future<Output = Answer> + Send + 'static {
        self.answer_any(request)
    }

    fn is_stopping(&self) -> bool {
        self.thread.shared.stopping.load(Ordering::Relaxed)
    }

    fn after_pause(&self) -> AfterPause {
        self.thread.after_pause()
    }
}

/// Reads the body of a call.
fn read(shared: &Shared, (asked, verb): (ModelPath<'_>, Verb), content: &[u8]) -> Option<Plain> {
    match verb {
        Verb::Predict => read_predict(shared, &asked, content),
        Verb::Classify => read_examples(shared, &asked, content, |examples| examples.classify.as_ref()),
        Verb::Regress => read_examples(shared, &asked, content, |examples| examples.regress.as_ref()),
    }
}

fn read_predict(shared: &Shared, asked: &ModelPath<'_>, content: &[u8]) -> Option<Plain> {
    let find = |signature: &[u8]| {
        let route = shared.plain.routes().named(asked.model.as_bytes(), asked.version, signature)?;
        Some(Target { signature: route.rest.clone()?, lane: route.lane.clone() })
    };
    let Body { signature: target, by_row, rows, columns } = Body::read(content, find)?;
    Some(Plain { target, columns, rows, choice: None, reply: Reply::Outputs { by_row } })
}

fn read_examples(
    shared: &Shared,
    asked: &ModelPath<'_>,
    content: &[u8],
    inference: impl Fn(&Examples) -> Option<&Arc<Inference>>,
) -> Option<Plain> {
    let body = ExamplesBody::read(content)?;
    let route = shared.plain.routes().named(asked.model.as_bytes(), asked.version, body.signature)?;
    // A graph that parses serialized Examples itself is left to Python, which writes an Example's features in another
    // order.
    let inference = inference(route.examples.as_ref().filter(|examples| !examples.serialized)?)?;
    let input = Input::read(body.input.cursor())?;
    let understood = Understood::of_examples(&route, &input, inference, inference.rest.as_ref()?)?;
    let Understood { signature, lane, arrays, rows, choice, protocol } = understood;
    let (Arrays::Columns(columns), Protocol::Examples(answer)) = (arrays, protocol) else { return None };
    Some(Plain { target: Target { lane, signature }, columns, rows, choice, reply: Reply::Results(answer) })
}

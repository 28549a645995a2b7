//! A request that Python answers: its bytes are passed to Python, and an answer comes back.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::answer::{Answer, Content, Prepared, answer, headers, status_code, with_content};
use super::endpoint::Endpoint;
use super::intake::{Body, SMALL};
use super::pieces::{Pieces, Waits};
use super::unread::Unread;
use crate::bridge::Count;
use crate::calls::{Inbox, Kind};
use crate::kept::{Answer as KeptAnswer, MAX_QUESTION, after};
use crate::memory::{self, CallMemory};
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
            Unread::hold(body, memory).map(|body| answer(status, headers, body.into()))
        }
        Ok(Reply { status, headers, body: Came::Pieces(coming), .. }) => {
            Some(with_content(status, headers, Content::Pieces(Pieces::new(coming, Box::new(waiting)))))
        }
        Err(_) => Some(answer(StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new())),
    }
}

/// The parts of a request on which its answer depends, if it may have been answered before: the path and query of a
/// GET.
pub fn question<'a>(head: &'a Parts, body: &Body) -> Option<&'a str> {
    let target = head.uri.path_and_query()?.as_str();
    (head.method == Method::GET && body.bytes.is_empty() && target.len() <= MAX_QUESTION).then_some(target)
}

/// A body that is stored until Python takes it.
enum Held {
    Memory(Bytes),
    File(OwnedFd),
    Taken,
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

/// An answer from Python.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Came,
    keep: Option<Keep>,
}

/// How long the answer also answers the same question, and the function that counts these calls.
struct Keep {
    count: Py<PyAny>,
    /// None means until the server's state changes.
    until: Option<Instant>,
}

enum Came {
    Whole(Bytes),
    Pieces(UnboundedReceiver<Bytes>),
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

/// The state of a request, which its connection shares with Python.
struct Request {
    head: Parts,
    identity: Arc<Identity>,
    is_gzip: bool,
    size: usize,
    memory: Arc<CallMemory>,
    body: Mutex<Held>,
    /// Sends the reply; None once the request has been answered.
    reply: Mutex<Option<oneshot::Sender<Reply>>>,
    /// Sends the pieces of an answer, from its beginning to its end.
    pieces: Mutex<Option<UnboundedSender<Bytes>>>,
    owner: Mutex<Option<Py<PyAny>>>,
}

/// An event for the event loop: `Kind::Begin`, `Sent` or `Cancelled` of a request, or that the server has drained.
pub struct Event {
    kind: Kind,
    request: Option<Arc<Request>>,
}

impl Event {
    pub fn drained() -> Self {
        Self { kind: Kind::Drained, request: None }
    }

    pub fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        (self.kind as u8, self.request.map(HttpRequest)).into_pyobject(py)
    }
}

/// A request for Python. Python may store any object as its `owner`, which is dropped when the request is answered.
#[pyclass(frozen, module = "headrace_native")]
pub struct HttpRequest(Arc<Request>);

#[pymethods]
impl HttpRequest {
    #[getter]
    fn method(&self) -> &str {
        self.0.head.method.as_str()
    }

    /// The path as it was sent, without the query.
    #[getter]
    fn path(&self) -> &str {
        self.0.head.uri.path()
    }

    /// The query with its question mark; empty if there is none.
    #[getter]
    fn query(&self) -> String {
        self.0.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default()
    }

    /// The headers by name. If a name appears several times, the last value counts, except for `authorization`: its
    /// values are joined into one, so that a request with several credentials is refused as invalid.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = PyDict::new(py);
        for (name, value) in &self.0.head.headers {
            headers.set_item(PyBytes::new(py, name.as_str().as_bytes()), PyBytes::new(py, value.as_bytes()))?;
        }
        let shown: Vec<_> = self.0.head.headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes).collect();
        if shown.len() > 1 {
            headers.set_item(
                PyBytes::new(py, AUTHORIZATION.as_str().as_bytes()),
                PyBytes::new(py, &shown.join(&b", "[..])),
            )?;
        }
        Ok(headers)
    }

    /// The client's certificate in DER; empty if the client has sent none.
    #[getter]
    fn certificate<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.0.identity.certificate())
    }

    /// The size of the body in bytes, as it was sent.
    #[getter]
    fn size(&self) -> usize {
        self.0.size
    }

    #[getter]
    fn is_gzip(&self) -> bool {
        self.0.is_gzip
    }

    /// Takes the body: its bytes, or the descriptor of a file with them, which the calling function must close.
    /// Raises an error if the body has already been taken.
    fn take_body<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match std::mem::replace(&mut *self.0.body.lock(), Held::Taken) {
            Held::Memory(bytes) => Ok(PyBytes::new(py, &bytes).into_any()),
            Held::File(file) => Ok(file.into_raw_fd().into_pyobject(py)?.into_any()),
            Held::Taken => Err(PyRuntimeError::new_err("the body has already been taken")),
        }
    }

    #[getter]
    fn owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.0.owner.lock().as_ref().map(|owner| owner.clone_ref(py))
    }

    #[setter]
    fn set_owner(&self, owner: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *self.0.owner.lock(), owner);
        drop(before);
    }

    /// Answers the request, once; `keep` is as in `Call.finish`, for at most this many seconds.
    #[pyo3(signature = (status, headers, body, keep=None, seconds=None))]
    fn answer(
        &self,
        status: u16,
        headers: Vec<(String, String)>,
        body: PyBackedBytes,
        keep: Option<Py<PyAny>>,
        seconds: Option<f64>,
    ) -> PyResult<()> {
        let until = seconds.map(after).transpose().map_err(PyValueError::new_err)?;
        let keep = keep.map(|count| Keep { count, until });
        self.reply(status, headers, Came::Whole(Bytes::from_owner(body)), keep)?;
        self.set_owner(None);
        Ok(())
    }

    /// Begins an answer whose body consists of the pieces that `send` delivers.
    fn begin(&self, status: u16, headers: Vec<(String, String)>) -> PyResult<()> {
        let (pieces, coming) = unbounded_channel();
        self.reply(status, headers, Came::Pieces(coming), None)?;
        *self.0.pieces.lock() = Some(pieces);
        Ok(())
    }

    /// Sends the next piece of the body.
    fn send(&self, piece: PyBackedBytes) {
        if let Some(pieces) = &*self.0.pieces.lock() {
            // Fails only if the client has gone.
            let _ = pieces.send(Bytes::from_owner(piece));
        }
    }

    /// Ends the body.
    fn finish(&self) {
        self.0.pieces.lock().take();
        self.set_owner(None);
    }
}

impl HttpRequest {
    fn reply(&self, status: u16, headers: Vec<(String, String)>, body: Came, keep: Option<Keep>) -> PyResult<()> {
        let reply = Reply { status: status_code(status)?, headers: self::headers(headers)?, body, keep };
        if let Some(waiting) = self.0.reply.lock().take() {
            // Fails only if the client has gone.
            let _ = waiting.send(reply);
        }
        Ok(())
    }
}

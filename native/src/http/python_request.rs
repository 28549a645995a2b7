//! A request that Python answers, as Python and its connection share it.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::answer::{headers, status_code};
use crate::buffer::python_bytes;
use crate::calls::Kind;
use crate::kept::after;
use crate::memory::CallMemory;
use crate::security::Identity;

/// A body that is stored until Python takes it.
pub enum Held {
    Memory(Bytes),
    File(OwnedFd),
    Taken,
}

/// An answer from Python.
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Came,
    pub keep: Option<Keep>,
}

/// Until when the answer is repeated for the same request, and the function that counts these calls.
pub struct Keep {
    pub count: Py<PyAny>,
    /// When the answer expires; None means when the server's state changes.
    pub until: Option<Instant>,
}

pub enum Came {
    Whole(Bytes),
    Pieces(UnboundedReceiver<Bytes>),
}

/// The state of a request, which its connection shares with Python.
pub struct Request {
    pub head: Parts,
    pub identity: Arc<Identity>,
    pub is_gzip: bool,
    pub size: usize,
    pub memory: Arc<CallMemory>,
    pub body: Mutex<Held>,
    /// Sends the reply; None once the request has been answered.
    pub reply: Mutex<Option<oneshot::Sender<Reply>>>,
    /// Sends the pieces of an answer, from its beginning to its end.
    pub pieces: Mutex<Option<UnboundedSender<Bytes>>>,
    pub owner: Mutex<Option<Py<PyAny>>>,
}

/// An event for the event loop: a request has begun, been sent or been cancelled, or the server has drained.
pub struct Event {
    pub kind: Kind,
    pub request: Option<Arc<Request>>,
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
            Held::Memory(bytes) => Ok(python_bytes(py, &bytes)?.into_any()),
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

//! Python's settings of an HTTP port, and the requests that Python takes from it.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use super::answer::{Prepared, headers, status_code};
use super::plain::begin_head;
use super::python_request::Event;
use crate::bridge::Count;
use crate::calls::Inbox;
use crate::grpc::Status;
use crate::kept::Kept;

/// An HTTP port's limits and answers, and the requests that Python answers.
pub struct Endpoint {
    pub max_body: usize,
    /// How long a model may take for a call.
    pub timeout: Option<Duration>,
    /// The answer to a body that is too large.
    pub too_large: Prepared,
    /// The answer to a call whose model has taken too long.
    pub late: Prepared,
    /// The error of a row-by-row answer if an output has no rows: its code, and its text with `{}` for the alias.
    pub scalar: (u8, String),
    /// The error of a row-by-row answer if an output has another number of rows than those before it: its code, and its
    /// text with `{}` for the alias and the two numbers.
    pub other_rows: (u8, String),
    /// The headers of every answer of the API.
    pub headers: HeaderMap,
    /// The beginning of the head of a successful answer over HTTP/1.1.
    pub head: Vec<u8>,
    pub inbox: Arc<Inbox<Event>>,
    /// Python's answers to GET requests, by path and query, each with the object that counts the calls that get it.
    pub kept: Kept<String, (Arc<Prepared>, Arc<Count>)>,
    /// The HTTP status for each gRPC status code.
    statuses: Vec<StatusCode>,
    /// The settings for the Open Inference Protocol.
    pub infer: InferAnswers,
}

/// How plain infers are answered.
pub struct InferAnswers {
    /// The headers of every answer.
    pub headers: HeaderMap,
    /// The answer to a call whose model has taken too long.
    pub late: Prepared,
    /// The HTTP status by gRPC's code.
    statuses: Vec<StatusCode>,
}

impl InferAnswers {
    /// The HTTP status for a gRPC code.
    pub fn status(&self, status: &Status) -> StatusCode {
        by_code(&self.statuses, status)
    }
}

/// The fields of an endpoint as Python passes them.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct InferFields {
    statuses: Vec<u16>,
    headers: Vec<(String, String)>,
    late: Prepared,
}

fn by_code(statuses: &[StatusCode], status: &Status) -> StatusCode {
    statuses.get(usize::from(status.code)).copied().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

fn status_codes(statuses: Vec<u16>) -> PyResult<Vec<StatusCode>> {
    statuses.into_iter().map(status_code).collect()
}

impl Endpoint {
    /// The HTTP status for a gRPC code.
    pub fn status(&self, status: &Status) -> StatusCode {
        by_code(&self.statuses, status)
    }
}

/// An `Endpoint` for Python.
#[pyclass(frozen, module = "headrace_native")]
pub struct HttpEndpoint(pub Arc<Endpoint>);

#[pymethods]
impl HttpEndpoint {
    /// `timeout` is in seconds; `statuses` are HTTP statuses by gRPC's code; an answer is its status, headers and body.
    #[new]
    #[pyo3(signature = (*, max_body, timeout, statuses, headers, too_large, late, scalar, other_rows, infer))]
    #[expect(clippy::too_many_arguments, reason = "Python passes these by name")]
    fn new(
        max_body: usize,
        timeout: Option<f64>,
        statuses: Vec<u16>,
        headers: Vec<(String, String)>,
        too_large: Prepared,
        late: Prepared,
        scalar: (u8, String),
        other_rows: (u8, String),
        infer: InferFields,
    ) -> PyResult<Self> {
        let timeout = timeout.map(Duration::try_from_secs_f64).transpose();
        let (headers, mut head) = (self::headers(headers)?, Vec::new());
        begin_head(StatusCode::OK, &headers, &mut head);
        Ok(Self(Arc::new(Endpoint {
            max_body,
            timeout: timeout.map_err(|error| PyValueError::new_err(error.to_string()))?,
            too_large,
            late,
            scalar,
            other_rows,
            headers,
            head,
            inbox: Arc::new(Inbox::new()?),
            kept: Kept::default(),
            statuses: status_codes(statuses)?,
            infer: InferAnswers {
                headers: self::headers(infer.headers)?,
                late: infer.late,
                statuses: status_codes(infer.statuses)?,
            },
        })))
    }

    fn fileno(&self) -> i32 {
        self.0.inbox.readable().as_raw_fd()
    }

    /// Like `Server.forget_answers`.
    fn forget_answers(&self) {
        self.0.kept.forget();
    }

    /// Removes and returns all events: each with a kind, and its request if it has one.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events: Vec<Bound<'py, PyTuple>> =
            self.0.inbox.take().into_iter().map(|event| event.into_python(py)).collect::<PyResult<_>>()?;
        PyList::new(py, events)
    }
}

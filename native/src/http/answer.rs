//! Answers: a status, headers, and a body that is complete or comes in pieces.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::pieces::Pieces;
use super::unread::Unread;

/// An answer to be sent; hyper adds Date and Content-Length.
pub type Answer = Response<Content>;

/// The body of an answer.
pub enum Content {
    /// The whole body; None once it has been sent.
    Whole(Option<Bytes>),
    Pieces(Pieces),
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(Frame::data).map(Ok)),
            Self::Pieces(pieces) => pieces.poll(context).map(|piece| piece.map(Frame::data).map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Pieces(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Pieces(_) => SizeHint::default(),
        }
    }
}

/// Creates an answer.
pub fn answer(status: StatusCode, headers: HeaderMap, body: Bytes) -> Answer {
    with_content(status, headers, Content::Whole(Some(body)))
}

/// An answer with any body.
pub fn with_content(status: StatusCode, headers: HeaderMap, content: Content) -> Answer {
    let mut answer = Response::new(content);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The answer to a plain call.
pub enum Answered {
    /// A success, with its body. Its headers are not kept here, since all of an endpoint's successes have the same.
    Well(Unread<BytesMut>),
    Otherwise(Box<Answer>),
}

impl Answered {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Well(_) => StatusCode::OK,
            Self::Otherwise(answer) => answer.status(),
        }
    }

    /// Returns the whole answer; `headers` are the headers of a successful one.
    pub fn answer(self, headers: &HeaderMap) -> Answer {
        match self {
            Self::Well(body) => answer(StatusCode::OK, headers.clone(), body.into()),
            Self::Otherwise(answer) => *answer,
        }
    }
}

impl From<Answer> for Answered {
    fn from(answer: Answer) -> Self {
        Self::Otherwise(Box::new(answer))
    }
}

/// An answer that Python has made, which can be sent any number of times.
pub struct Prepared {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Prepared {
    /// Creates a prepared answer from a complete one.
    pub fn new(status: StatusCode, headers: HeaderMap, body: Bytes) -> Self {
        Self { status, headers, body }
    }

    /// The approximate size of the answer in bytes.
    pub fn size(&self) -> usize {
        self.body.len() + self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>()
    }

    pub fn answer(&self) -> Answer {
        answer(self.status, self.headers.clone(), self.body.clone())
    }
}

impl<'py> FromPyObject<'_, 'py> for Prepared {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let (status, named, body): (u16, Vec<(String, String)>, PyBackedBytes) = object.extract()?;
        Ok(Self { status: status_code(status)?, headers: headers(named)?, body: Bytes::from_owner(body) })
    }
}

/// The HTTP status.
pub fn status_code(status: u16) -> PyResult<StatusCode> {
    StatusCode::from_u16(status).map_err(|error| PyValueError::new_err(format!("{status}: {error}")))
}

/// Converts headers from Python.
pub fn headers(named: Vec<(String, String)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(named.len());
    for (name, value) in named {
        let wrong = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("{name}: {value}: {error}"));
        let name = HeaderName::try_from(&name).map_err(|error| wrong(&error))?;
        headers.append(name, HeaderValue::try_from(&value).map_err(|error| wrong(&error))?);
    }
    Ok(headers)
}

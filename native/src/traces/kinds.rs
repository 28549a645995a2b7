//! The parts that many spans share. OpenTelemetry's SDK encodes each kind of span once, in Python; here, only IDs,
//! times and counts are written.

use std::sync::Arc;

use pyo3::prelude::*;
use rustc_hash::FxHashMap;

/// The maximum number of kinds of requests that are kept.
const MOST: usize = 1024;

/// The bytes of a span of one kind, without its IDs and times.
pub type Encoded = Arc<[u8]>;

/// A kind of requests: their spans differ only in their IDs and times.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestKind {
    pub is_http: bool,
    /// The HTTP path, or the gRPC method with its service.
    pub name: String,
    pub model: Arc<str>,
    /// The gRPC code or the HTTP status; None for an HTTP request whose client has left.
    pub status: Option<u16>,
    pub has_caller: bool,
}

/// The kinds of spans that do not depend on the request, and the parts of a message around its spans.
#[derive(FromPyObject)]
pub struct Constants {
    /// A `ResourceSpans` without its spans.
    pub resource: Vec<u8>,
    /// A `ScopeSpans` without its spans.
    pub scope: Vec<u8>,
    pub queue: Vec<u8>,
    pub join: Vec<u8>,
    pub run: Vec<u8>,
    pub split: Vec<u8>,
    /// The names of a batch's attributes with the numbers of its requests, its rows, and its rows of padding.
    pub counts: [String; 3],
    /// The flags of a link.
    pub link_flags: u32,
    /// The nanoseconds by which the system's clock is ahead of the queues' clock.
    pub offset: i64,
}

/// Python's functions that return the bytes of further kinds.
#[derive(FromPyObject)]
struct Functions {
    of_record: Py<PyAny>,
    of_trace: Py<PyAny>,
    of_batch: Py<PyAny>,
}

/// The kinds of spans: `EncodedKinds` of `headrace_server.monitoring.span_kinds`.
pub struct Kinds {
    pub constants: Constants,
    functions: Functions,
    requests: FxHashMap<RequestKind, Encoded>,
}

impl Kinds {
    pub fn take(python: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self { constants: python.extract()?, functions: python.extract()?, requests: FxHashMap::default() })
    }

    /// Returns the kind of a request that has been answered here; None if Python has not been asked for it yet.
    pub fn known(&self, kind: &RequestKind) -> Option<&Encoded> {
        self.requests.get(kind)
    }

    /// Returns the kind of a request that has been answered here; asks Python for it if it is not known yet.
    pub fn learn(&mut self, py: Python<'_>, kind: RequestKind) -> PyResult<Encoded> {
        if let Some(known) = self.requests.get(&kind) {
            return Ok(known.clone());
        }
        let RequestKind { is_http, name, model, status, has_caller } = &kind;
        let found = self.functions.of_record.bind(py).call1((*is_http, name, &**model, *status, *has_caller))?;
        let encoded = Encoded::from(found.extract::<Vec<u8>>()?);
        if self.requests.len() >= MOST {
            self.requests.clear();
        }
        self.requests.insert(kind, encoded.clone());
        Ok(encoded)
    }

    /// The kind of a request that Python has recorded.
    pub fn of_trace(&self, trace: &Bound<'_, PyAny>) -> PyResult<Encoded> {
        Ok(self.functions.of_trace.bind(trace.py()).call1((trace,))?.extract::<Vec<u8>>()?.into())
    }

    /// The kind of a version's batches.
    pub fn of_batch(&self, version: &Bound<'_, PyAny>, failed: bool) -> PyResult<Encoded> {
        Ok(self.functions.of_batch.bind(version.py()).call1((version, failed))?.extract::<Vec<u8>>()?.into())
    }
}

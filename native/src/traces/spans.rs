//! Combines traced requests with the batches that they ran in, and encodes their spans without the interpreter.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::BytesMut;
use fastrand::Rng;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use smallvec::SmallVec;

use super::batch::{Batches, Report};
use super::kinds::{Constants, Encoded, Kinds};
use super::span::{SpanId, TraceId};
use super::tree::{Ended, Tree, write_some};
use super::{MOST, Record, Traces};
use crate::protobuf::Writer;
use crate::protobuf::wire::field_len;

/// The number of the field of an `ExportTraceServiceRequest` that has its `ResourceSpans`.
const RESOURCE_SPANS: u32 = 1;

/// The number of the field of a `ResourceSpans` that has its `ScopeSpans`.
const SCOPE_SPANS: u32 = 2;

/// A message, and the number of its spans.
type CountedSpans<'py> = (Bound<'py, PyBytes>, usize);

/// Samples the calls of a server, and creates the spans of all traced ones. Used by one thread.
///
/// `headrace_server.monitoring.spans.SpanMaker` encodes the same spans for servers without this transport.
#[pyclass(module = "headrace_native")]
pub struct Spans {
    traces: Arc<Traces>,
    kinds: Kinds,
    ids: Rng,
    /// Requests whose batches are not known yet.
    waiting: Vec<Ended>,
    batches: Batches,
}

/// A `headrace_server.models.trace.Trace`.
#[derive(FromPyObject)]
struct PythonTrace {
    trace_id: TraceId,
    parent_id: Vec<u8>,
    state: String,
    began: f64,
    ended: f64,
    arrivals: Vec<f64>,
}

/// The bytes of an `ExportTraceServiceRequest`: the heads of its parts, and its spans.
struct Message {
    head: BytesMut,
    spans: BytesMut,
    count: usize,
}

#[pymethods]
impl Spans {
    /// `ratio` is the share of the requests without a traceparent that are traced, `rate` the maximum number of
    /// requests per second; `kinds` are the kinds of spans.
    #[new]
    fn new(ratio: f64, rate: f64, kinds: &Bound<'_, PyAny>) -> PyResult<Self> {
        Ok(Self {
            traces: Arc::new(Traces::new(ratio, rate)),
            kinds: Kinds::take(kinds)?,
            ids: Rng::with_seed(RandomState::new().hash_one(())),
            waiting: Vec::new(),
            batches: Batches::default(),
        })
    }

    /// Encodes the spans of the requests that have ended. Returns messages, each with the number of its spans, and the
    /// number of requests that wait for their batches.
    ///
    /// `traces` are the requests that Python has recorded. `reports` are the reports of batches that have run, each
    /// with the version that ran the batch. Requests that ended before `oldest` do not wait; batches that began before
    /// `oldest_batch` are forgotten.
    fn encode<'py>(
        &mut self,
        py: Python<'py>,
        traces: &Bound<'py, PyAny>,
        reports: &Bound<'py, PyAny>,
        oldest: f64,
        oldest_batch: f64,
    ) -> PyResult<(Vec<CountedSpans<'py>>, usize)> {
        for record in py.detach(|| self.take_known()) {
            let kind = self.kinds.learn(py, record.kind())?;
            self.waiting.push(record.ended(kind, &mut self.ids));
        }
        for trace in traces.try_iter()? {
            let trace = trace?;
            let kind = self.kinds.of_trace(&trace)?;
            self.waiting.push(trace.extract::<PythonTrace>()?.ended(kind)?);
        }
        // Reports are read last: a batch is reported as soon as its requests have been answered.
        for pair in reports.try_iter()? {
            let (version, report): (Bound<'py, PyAny>, Report) = pair?.extract()?;
            self.batches.add(self.kinds.of_batch(&version, report.failed)?, &report);
        }
        let messages = py.detach(|| self.messages(oldest, oldest_batch));
        let messages = messages.iter().map(|message| Ok((message.bytes(py)?, message.count)));
        Ok((messages.collect::<PyResult<_>>()?, self.waiting.len()))
    }
}

impl Spans {
    pub fn traces(&self) -> Arc<Traces> {
        self.traces.clone()
    }

    /// Takes the requests that have been answered without Python; returns those whose kind Python must be asked for.
    fn take_known(&mut self) -> Vec<Record> {
        let mut unknown = Vec::new();
        for record in self.traces.take() {
            match self.kinds.known(&record.kind()).cloned() {
                Some(kind) => self.waiting.push(record.ended(kind, &mut self.ids)),
                None => unknown.push(record),
            }
        }
        unknown
    }

    fn messages(&mut self, oldest: f64, oldest_batch: f64) -> Vec<Message> {
        let ended = std::mem::take(&mut self.waiting).into_iter();
        let (whole, mut waiting): (Vec<_>, Vec<_>) = ended.partition(|one| one.is_whole(&self.batches, oldest));
        waiting.truncate(MOST);
        self.waiting = waiting;
        // All trees are created before any is written, since the spans of batches link to each other.
        let trees = whole.into_iter().map(|one| Tree::new(one, &mut self.batches, &mut self.ids));
        let trees: Vec<_> = trees.collect();
        self.batches.forget(oldest_batch);
        let (constants, mut rest, mut messages) = (&self.kinds.constants, &*trees, Vec::new());
        while !rest.is_empty() {
            let mut spans = BytesMut::new();
            let count;
            (count, rest) = write_some(rest, constants, &mut self.ids, &mut spans);
            messages.push(Message { head: head(constants, spans.len()), spans, count });
        }
        messages
    }
}

impl Message {
    fn bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        PyBytes::new_with(py, self.head.len() + self.spans.len(), |bytes| {
            let (head, spans) = bytes.split_at_mut(self.head.len());
            head.copy_from_slice(&self.head);
            spans.copy_from_slice(&self.spans);
            Ok(())
        })
    }
}

impl PythonTrace {
    fn ended(self, kind: Encoded) -> PyResult<Ended> {
        let Self { trace_id, parent_id, state, began, ended, arrivals } = self;
        let parent = if parent_id.is_empty() { None } else { Some(SpanId::try_from(&*parent_id)?) };
        Ok(Ended { trace_id, parent, state, kind, began, ended, arrivals: SmallVec::from_vec(arrivals) })
    }
}

/// The bytes that precede spans of this many bytes.
fn head(constants: &Constants, spans: usize) -> BytesMut {
    let Constants { resource, scope, .. } = constants;
    let scoped = scope.len() + spans;
    let mut head = BytesMut::new();
    let mut out = Writer::new(&mut head);
    out.field(RESOURCE_SPANS, resource.len() + field_len(SCOPE_SPANS, scoped));
    out.slice(resource);
    out.field(SCOPE_SPANS, scoped);
    out.slice(scope);
    drop(out);
    head
}

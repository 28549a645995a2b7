//! The tree of spans of one traced request: request > queue > batch > join, run, split.

use std::sync::Arc;

use bytes::BytesMut;
use fastrand::Rng;
use smallvec::SmallVec;

use super::batch::{Batch, Batches};
use super::kinds::{Constants, Encoded};
use super::span::{Span, SpanId, TraceId, attribute, link};
use crate::protobuf::Writer;

/// The number of bytes after which the next tree begins another message: collectors refuse messages of more than 4 MB.
const ENOUGH: usize = 1 << 20;

/// A traced request that has ended. Times are in seconds on the queue's clock.
pub struct Ended {
    pub trace_id: TraceId,
    /// The caller's span.
    pub parent: Option<SpanId>,
    pub state: String,
    pub kind: Encoded,
    pub began: f64,
    pub ended: f64,
    /// When each of its tasks joined its queue.
    pub arrivals: SmallVec<[f64; 1]>,
}

impl Ended {
    /// Whether the request's batches are known, or the request ended too long ago to wait for them.
    pub fn is_whole(&self, batches: &Batches, oldest: f64) -> bool {
        self.ended < oldest || self.arrivals.iter().all(|arrived| batches.has(*arrived))
    }
}

/// A request with its batches. For each batch, there is the time when the request's task joined its queue, and the ID
/// of the batch's span.
pub struct Tree {
    request: Ended,
    batches: SmallVec<[(f64, Arc<Batch>, SpanId); 1]>,
}

impl Tree {
    /// Removes from `batches` those in which a request ran, and records in each of them the ID of its span.
    pub fn new(request: Ended, batches: &mut Batches, ids: &mut Rng) -> Self {
        let found = request.arrivals.iter().filter_map(|arrived| Some((*arrived, batches.take(*arrived)?)));
        let batches: SmallVec<[_; 1]> = found.map(|(arrived, batch)| (arrived, batch, new_id(ids))).collect();
        for (_, batch, own) in &batches {
            batch.spans.lock().push((request.trace_id, *own));
        }
        Self { request, batches }
    }

    fn write(&self, spans: &mut SpanWriter<'_>) {
        let (constants, request) = (spans.constants, new_id(spans.ids));
        let Ended { parent, kind, began, ended, .. } = &self.request;
        spans.write(self, (request, *parent), [*began, *ended], kind, &[]);
        for (arrived, batch, own) in &self.batches {
            let [began, joined, computed, ended] = batch.times;
            let queue = new_id(spans.ids);
            spans.write(self, (queue, Some(request)), [*arrived, began], &constants.queue, &[]);
            let more = about(batch, *own, constants);
            spans.write(self, (*own, Some(queue)), [began, ended], &batch.kind, &more);
            let parts = [
                (&constants.join, [began, joined]),
                (&constants.run, [joined, computed]),
                (&constants.split, [computed, ended]),
            ];
            for (kind, times) in parts {
                let part = new_id(spans.ids);
                spans.write(self, (part, Some(*own)), times, kind, &[]);
            }
        }
    }
}

/// A batch's counts, and its links to its spans in the traces of its other requests.
fn about(batch: &Batch, own: SpanId, constants: &Constants) -> BytesMut {
    let mut fields = BytesMut::new();
    let mut out = Writer::new(&mut fields);
    for (name, count) in constants.counts.iter().zip(batch.counts) {
        attribute(name, count, &mut out);
    }
    for other in batch.spans.lock().iter().filter(|(_, id)| *id != own) {
        link(other, constants.link_flags, &mut out);
    }
    drop(out);
    fields
}

/// Writes the spans of the first trees, until there are enough bytes. Returns the number of spans, and the other trees.
pub fn write_some<'a>(
    trees: &'a [Tree],
    constants: &Constants,
    ids: &mut Rng,
    out: &mut BytesMut,
) -> (usize, &'a [Tree]) {
    let mut spans = SpanWriter { out: Writer::new(out), constants, ids, count: 0, bytes: 0 };
    let mut rest = trees;
    while let Some((tree, others)) = rest.split_first().filter(|_| spans.bytes < ENOUGH) {
        tree.write(&mut spans);
        rest = others;
    }
    (spans.count, rest)
}

struct SpanWriter<'a> {
    out: Writer<'a>,
    constants: &'a Constants,
    ids: &'a mut Rng,
    /// The number of spans that have been written.
    count: usize,
    /// The number of bytes of these spans.
    bytes: usize,
}

impl SpanWriter<'_> {
    /// Writes a span of a tree; `ids` are its own and its parent's.
    fn write(&mut self, tree: &Tree, ids: (SpanId, Option<SpanId>), times: [f64; 2], kind: &[u8], more: &[u8]) {
        let (id, parent) = ids;
        let Ended { trace_id, state, .. } = &tree.request;
        let times = times.map(|seconds| (self.constants.offset + (seconds * 1e9) as i64) as u64);
        self.bytes += Span { trace_id, id, state, parent, times }.write(kind, more, &mut self.out);
        self.count += 1;
    }
}

/// Draws a span's ID, which must not be zero.
fn new_id(ids: &mut Rng) -> SpanId {
    ids.u64(1..).to_be_bytes()
}

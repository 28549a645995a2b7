//! Writes one span of OpenTelemetry's protocol: a kind's bytes with IDs and times.

use crate::protobuf::Writer;
use crate::protobuf::wire::{FIXED32, FIXED64, VARINT, field_len, varint_len};

pub type TraceId = [u8; 16];
pub type SpanId = [u8; 8];

/// The number of the field of a `ScopeSpans` that has its spans.
const SPANS: u32 = 2;

/// The fields of a `Span`.
mod field {
    pub const TRACE_ID: u32 = 1;
    pub const SPAN_ID: u32 = 2;
    pub const TRACE_STATE: u32 = 3;
    pub const PARENT_SPAN_ID: u32 = 4;
    pub const START_TIME: u32 = 7;
    pub const END_TIME: u32 = 8;
    pub const ATTRIBUTES: u32 = 9;
    pub const LINKS: u32 = 13;
}

/// The number of the field of a `Link` that has its flags; the fields before it have the same numbers as in a `Span`.
const LINK_FLAGS: u32 = 6;
const LINK_LEN: usize = (2 + size_of::<TraceId>()) + (2 + size_of::<SpanId>()) + (1 + size_of::<u32>());

/// The number of bytes of a time, with its tag.
const TIME_LEN: usize = 1 + size_of::<u64>();

/// A span, without the attributes that all spans of its kind share.
pub struct Span<'a> {
    pub trace_id: &'a TraceId,
    pub id: SpanId,
    /// The states of other tracing systems; empty if there are none.
    pub state: &'a str,
    pub parent: Option<SpanId>,
    /// The start and the end, in nanoseconds since 1970.
    pub times: [u64; 2],
}

impl Span<'_> {
    /// Writes the span, and returns its length; `kind` and `more` are encoded fields.
    pub fn write(&self, kind: &[u8], more: &[u8], out: &mut Writer<'_>) -> usize {
        let len = self.len() + kind.len() + more.len();
        out.field(SPANS, len);
        id(field::TRACE_ID, self.trace_id, out);
        id(field::SPAN_ID, &self.id, out);
        if !self.state.is_empty() {
            id(field::TRACE_STATE, self.state.as_bytes(), out);
        }
        if let Some(parent) = &self.parent {
            id(field::PARENT_SPAN_ID, parent, out);
        }
        for (number, time) in [field::START_TIME, field::END_TIME].into_iter().zip(self.times) {
            out.tag(number, FIXED64);
            out.slice(&time.to_le_bytes());
        }
        out.slice(kind);
        out.slice(more);
        len
    }

    fn len(&self) -> usize {
        let state = if self.state.is_empty() { 0 } else { field_len(field::TRACE_STATE, self.state.len()) };
        let parent = self.parent.map_or(0, |parent| field_len(field::PARENT_SPAN_ID, parent.len()));
        let ids = field_len(field::TRACE_ID, self.trace_id.len()) + field_len(field::SPAN_ID, self.id.len());
        ids + state + parent + 2 * TIME_LEN
    }
}

/// Writes an attribute of a span.
pub fn attribute(name: &str, value: u64, out: &mut Writer<'_>) {
    let any = 1 + varint_len(value);
    out.field(field::ATTRIBUTES, field_len(1, name.len()) + field_len(2, any));
    out.field(1, name.len());
    out.slice(name.as_bytes());
    out.field(2, any);
    out.tag(3, VARINT); // AnyValue's `int_value`
    out.varint(value);
}

/// Writes a link to another span.
pub fn link((trace_id, span_id): &(TraceId, SpanId), flags: u32, out: &mut Writer<'_>) {
    out.field(field::LINKS, LINK_LEN);
    id(field::TRACE_ID, trace_id, out);
    id(field::SPAN_ID, span_id, out);
    out.tag(LINK_FLAGS, FIXED32);
    out.slice(&flags.to_le_bytes());
}

fn id(number: u32, id: &[u8], out: &mut Writer<'_>) {
    out.field(number, id.len());
    out.slice(id);
}

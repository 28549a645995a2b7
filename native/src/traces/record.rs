//! The record of a traced call that is answered without Python.

use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use http::HeaderMap;

use super::kinds::{Encoded, RequestKind};
use super::tree::Ended;
use super::{Parent, Traces};

/// W3C Trace Context: the header with the states of other tracing systems.
pub const STATE: &str = "tracestate";

/// The maximum length in bytes of a `STATE` header that is kept.
const LONGEST_STATE: usize = 512;

/// The method that was called.
pub enum Method {
    /// A gRPC method with its service.
    Rpc(String),
    /// The path of an HTTP POST.
    Http(String),
}

/// A traced request whose headers have arrived.
pub struct Begun {
    traces: Arc<Traces>,
    parent: Option<Parent>,
    state: String,
    method: Method,
    came: Instant,
}

impl Begun {
    pub fn new(traces: Arc<Traces>, parent: Option<Parent>, headers: &HeaderMap, method: Method) -> Self {
        let state = parent.map_or_else(String::new, |_| state(headers));
        Self { traces, parent, state, method, came: Instant::now() }
    }

    /// The trace of the request as a call of a model; `queued` is the time when it joins its queue, by the system's
    /// clock and by the queue's.
    pub fn trace(self: &Arc<Self>, model: Arc<str>, queued: (Instant, f64)) -> Trace {
        Trace { begun: self.clone(), model, queued, waits: true, status: None }
    }
}

/// The states of other tracing systems; empty if there are none, or if they are too long to keep.
fn state(headers: &HeaderMap) -> String {
    let parts: Option<Vec<_>> = headers.get_all(STATE).iter().map(|value| value.to_str().ok()).collect();
    parts.map(|parts| parts.join(",")).filter(|state| state.len() <= LONGEST_STATE).unwrap_or_default()
}

/// A traced call until it ends.
pub struct Trace {
    begun: Arc<Begun>,
    model: Arc<str>,
    /// The time at which the call joined its queue, by the system's clock and by the queue's.
    queued: (Instant, f64),
    waits: bool,
    /// The HTTP status.
    status: Option<u16>,
}

impl Trace {
    /// Records that the call was refused, so that it never waited in a queue.
    pub fn is_refused(&mut self) {
        self.waits = false;
    }

    /// Records the HTTP status of the answer.
    pub fn is_answered(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// Ends the trace with the call's gRPC code.
    pub fn end(self, code: u8) {
        let (queued, at) = self.queued;
        let status = match self.begun.method {
            Method::Rpc(_) => Some(u16::from(code)),
            Method::Http(_) => self.status,
        };
        let record = Record {
            model: self.model,
            status,
            began: at - queued.saturating_duration_since(self.begun.came).as_secs_f64(),
            ended: at + queued.elapsed().as_secs_f64(),
            arrived: self.waits.then_some(at),
            begun: self.begun.clone(),
        };
        self.begun.traces.add(record);
    }
}

/// A traced call that has ended. Times are in seconds on the clock of the call's queue.
pub struct Record {
    begun: Arc<Begun>,
    model: Arc<str>,
    /// The gRPC code or the HTTP status; None for an HTTP request whose client has left.
    status: Option<u16>,
    began: f64,
    ended: f64,
    /// The time at which the call joined its queue; None if it did not.
    arrived: Option<f64>,
}

impl Record {
    pub fn kind(&self) -> RequestKind {
        let (is_http, name) = match &self.begun.method {
            Method::Rpc(name) => (false, name),
            Method::Http(path) => (true, path),
        };
        let (name, model, has_caller) = (name.clone(), self.model.clone(), self.begun.parent.is_some());
        RequestKind { is_http, name, model, status: self.status, has_caller }
    }

    /// Returns the data of the request that its spans need. If its caller has no trace, the request gets a new trace
    /// ID.
    pub fn ended(self, kind: Encoded, ids: &mut Rng) -> Ended {
        let Self { begun, began, ended, arrived, .. } = self;
        let trace_id = begun.parent.map_or_else(|| ids.u128(1..).to_be_bytes(), |parent| parent.trace_id);
        let (parent, state) = (begun.parent.map(|parent| parent.span_id), begun.state.clone());
        Ended { trace_id, parent, state, kind, began, ended, arrivals: arrived.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn states_are_joined_unless_they_are_too_long() {
        let mut headers = HeaderMap::new();
        assert_eq!(state(&headers), "");
        headers.append(STATE, HeaderValue::from_static("a=1"));
        headers.append(STATE, HeaderValue::from_static("b=2"));
        assert_eq!(state(&headers), "a=1,b=2");
        headers.append(STATE, HeaderValue::from_str(&"c".repeat(LONGEST_STATE)).expect("it is plain"));
        assert_eq!(state(&headers), "");
    }
}

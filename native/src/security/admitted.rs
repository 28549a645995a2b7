//! A call that has been admitted, and the record that is written when it ends.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;

use super::account::Charged;
use super::audit::Record;
use crate::grpc::CANCELLED;
use crate::traces::{Begun, Trace};

/// An admitted call, which counts as running until this is dropped, and the record for its end.
///
/// The code that answers the client calls `end`. If this is dropped before that, the client has left.
#[derive(Default)]
pub struct Admitted {
    charged: Option<Charged>,
    ending: Option<Box<Ending>>,
}

/// The record that is written when a call ends.
#[derive(Default)]
struct Ending {
    line: Option<Record>,
    trace: Option<Trace>,
}

impl Admitted {
    pub(super) fn charged(charged: Charged) -> Self {
        Self { charged: Some(charged), ending: None }
    }

    /// Returns the charge for the call and its rows to the account, because the code that takes over the call will admit
    /// it again.
    pub fn undo(mut self) {
        self.give_rows_back();
        self.ending = None;
        if let Some(charged) = &self.charged {
            charged.give_call_back();
        }
    }

    /// Records that the call ended with this code.
    pub fn end(&mut self, code: u8) {
        if let Some(ending) = self.ending.take() {
            ending.end(code);
        }
    }

    /// Records the HTTP status of its answer.
    pub fn answered_with(&mut self, status: StatusCode) {
        if let Some(trace) = self.ending.as_mut().and_then(|ending| ending.trace.as_mut()) {
            trace.is_answered(status.as_u16());
        }
    }

    /// Begins the record of the call if it is traced. `queued` returns the time when it joins its queue, by the
    /// system's clock and by the queue's.
    pub fn trace(&mut self, begun: Option<&Arc<Begun>>, model: &Arc<str>, queued: impl FnOnce() -> (Instant, f64)) {
        if let Some(begun) = begun {
            self.ending.get_or_insert_default().trace = Some(begun.trace(model.clone(), queued()));
        }
    }

    /// Adds the record that the audit log writes when the call ends.
    pub(super) fn recorded(mut self, record: Option<Record>) -> Self {
        if record.is_some() {
            self.ending.get_or_insert_default().line = record;
        }
        self
    }

    /// Returns the rows of a call that has been refused after all, so that none of them is run.
    pub fn give_rows_back(&mut self) {
        if let Some(charged) = &mut self.charged {
            charged.give_rows_back();
        }
        if let Some(ending) = &mut self.ending {
            ending.line.as_mut().map(Record::without_rows);
            ending.trace.as_mut().map(Trace::is_refused);
        }
    }
}

impl Ending {
    fn end(self, code: u8) {
        if let Some(line) = self.line {
            line.write(code);
        }
        if let Some(trace) = self.trace {
            trace.end(code);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

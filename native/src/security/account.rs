//! What one caller may use: calls and rows per second, and calls at once.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use parking_lot::Mutex;
use pyo3::prelude::*;

use super::audit::Record;
use crate::grpc::CANCELLED;
use crate::traces::{Begun, Trace};

/// What one caller may use. Zero means that there is no limit.
///
/// Each bucket fills at its rate, up to what one second brings (at least one). A call is admitted while neither bucket
/// is empty, and then takes what it needs, so a bucket may be overdrawn: a call with many rows is admitted, and the
/// calls after it wait longer. `security/account.py` does the same in Python.
#[pyclass(frozen, module = "headrace_native")]
pub struct Account(Arc<Limits>);

struct Limits {
    calls: f64,
    rows: f64,
    concurrent: usize,
    state: Mutex<State>,
}

struct State {
    calls: f64,
    rows: f64,
    filled: Instant,
    running: usize,
}

/// A call, which counts as running until this is dropped, and what is recorded when it ends.
///
/// The code that answers the client calls `end`. If this is dropped before that, the client has left.
#[derive(Default)]
pub struct Admitted {
    charged: Option<Charged>,
    ending: Option<Box<Ending>>,
}

/// What is recorded when a call ends.
#[derive(Default)]
struct Ending {
    line: Option<Record>,
    trace: Option<Trace>,
}

struct Charged {
    limits: Arc<Limits>,
    rows: usize,
}

impl Admitted {
    /// Takes back what was charged, because the code that takes over the call will admit it again.
    pub fn undo(mut self) {
        self.give_rows_back();
        self.ending = None;
        if let Some(charged) = &self.charged {
            charged.limits.state.lock().calls += 1.0;
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

    /// Records the call from now on if it is traced; `queued` returns the time when it joins its queue, by both clocks.
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

    /// Takes back the rows of a call that has been refused after all: none of them is run.
    pub fn give_rows_back(&mut self) {
        if let Some(charged) = &mut self.charged {
            charged.limits.state.lock().rows += std::mem::take(&mut charged.rows) as f64;
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
        if let Some(charged) = &self.charged {
            charged.limits.release();
        }
    }
}

#[pymethods]
impl Account {
    #[new]
    fn new(calls_per_second: f64, rows_per_second: f64, concurrent_calls: usize) -> Self {
        let state = Mutex::new(State {
            calls: calls_per_second.max(1.0),
            rows: rows_per_second.max(1.0),
            filled: Instant::now(),
            running: 0,
        });
        Self(Arc::new(Limits { calls: calls_per_second, rows: rows_per_second, concurrent: concurrent_calls, state }))
    }

    /// Admits a call, which counts as running until `release`: None, or the seconds to wait before a retry.
    fn admit(&self) -> Option<f64> {
        self.0.admit(0, Instant::now())
    }

    /// Takes the rows of a call that has been admitted; a negative number returns rows that are not run after all.
    fn charge(&self, rows: i64) {
        self.0.state.lock().rows -= rows as f64;
    }

    /// A call that was admitted has ended.
    fn release(&self) {
        self.0.release();
    }
}

impl Account {
    /// Admits a call of so many rows, or says after how many seconds to try again.
    pub fn admitted(&self, rows: usize, now: Instant) -> Result<Admitted, f64> {
        let charged = || Charged { limits: self.0.clone(), rows };
        let admitted = || Admitted { charged: Some(charged()), ending: None };
        self.0.admit(rows, now).map_or_else(|| Ok(admitted()), Err)
    }
}

impl Limits {
    fn admit(&self, rows: usize, now: Instant) -> Option<f64> {
        /// Seconds after which a client with too many concurrent calls may try again: when one ends is not known.
        const SOON: f64 = 0.1;
        let mut state = self.state.lock();
        let seconds = now.saturating_duration_since(state.filled).as_secs_f64();
        state.calls = (state.calls + seconds * self.calls).min(self.calls.max(1.0));
        state.rows = (state.rows + seconds * self.rows).min(self.rows.max(1.0));
        state.filled = state.filled.max(now);
        let wait = |rate: f64, left: f64| if rate > 0.0 && left < 1.0 { (1.0 - left) / rate } else { 0.0 };
        let wait = wait(self.calls, state.calls).max(wait(self.rows, state.rows));
        if wait > 0.0 {
            return Some(wait);
        }
        if self.concurrent > 0 && state.running >= self.concurrent {
            return Some(SOON);
        }
        state.calls -= 1.0;
        state.rows -= rows as f64;
        state.running += 1;
        None
    }

    fn release(&self) {
        self.state.lock().running -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_per_second() {
        let account = Account::new(2.0, 0.0, 0);
        let now = Instant::now();
        assert!(account.admitted(1, now).is_ok() && account.admitted(1, now).is_ok());
        assert!(account.admitted(1, now).is_err_and(|wait| wait == 0.5));
        assert!(account.admitted(1, now + Duration::from_millis(510)).is_ok());
    }

    #[test]
    fn rows_are_overdrawn_once() {
        let account = Account::new(0.0, 10.0, 0);
        let now = Instant::now();
        assert!(account.admitted(30, now).is_ok());
        assert!(account.admitted(1, now + Duration::from_millis(2000)).is_err());
        assert!(account.admitted(1, now + Duration::from_millis(2200)).is_ok());
    }

    #[test]
    fn a_call_that_goes_elsewhere_costs_nothing() {
        let account = Account::new(1.0, 10.0, 1);
        let now = Instant::now();
        (0..3).for_each(|_| account.admitted(30, now).expect("nothing has been used").undo());
    }

    #[test]
    fn a_refused_call_counts_and_its_rows_do_not() {
        let account = Account::new(2.0, 10.0, 0);
        let now = Instant::now();
        (0..2).for_each(|_| account.admitted(30, now).expect("no row has been run").give_rows_back());
        assert!(account.admitted(1, now).is_err());
    }

    #[test]
    fn calls_at_once() {
        let account = Account::new(0.0, 0.0, 1);
        let now = Instant::now();
        let first = account.admitted(1, now);
        assert!(first.is_ok() && account.admitted(1, now).is_err());
        drop(first);
        assert!(account.admitted(1, now).is_ok());
    }
}

//! The limits of one caller: calls and rows per second, and concurrent calls.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::prelude::*;

/// The limits of one caller. Zero means that there is no limit.
///
/// There is a token bucket for calls and one for rows. Each fills at its rate, up to the tokens of one second (at least
/// one). A call is admitted if both buckets have a token, and then takes what it needs, so a bucket may be overdrawn: a
/// call with many rows is admitted, and the calls after it wait longer. `security/account.py` does the same in Python.
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

/// The charge for an admitted call, which counts as running until this is dropped.
pub struct Charged {
    limits: Arc<Limits>,
    rows: usize,
}

impl Charged {
    /// Gives the call's rows back to the limit on rows, because none of them is run.
    pub fn give_rows_back(&mut self) {
        self.limits.state.lock().rows += std::mem::take(&mut self.rows) as f64;
    }

    /// Gives the call back to the limit on calls, as if it had not been made.
    pub fn give_call_back(&self) {
        self.limits.state.lock().calls += 1.0;
    }
}

impl Drop for Charged {
    fn drop(&mut self) {
        self.limits.release();
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

    /// Admits a call, which counts as running until `release`, and returns None. If the limits do not allow the call
    /// now, returns the number of seconds after which the client may try again.
    fn admit(&self) -> Option<f64> {
        self.0.admit(0, Instant::now())
    }

    /// Subtracts the rows of an admitted call from those that the account may still run; a negative number returns rows
    /// that are not run after all.
    fn charge(&self, rows: i64) {
        self.0.state.lock().rows -= rows as f64;
    }

    /// Records that an admitted call has ended.
    fn release(&self) {
        self.0.release();
    }
}

impl Account {
    /// Admits a call with this many rows, and returns its charge. If the limits do not allow the call now, fails with
    /// the number of seconds after which the client may try again.
    pub fn charged(&self, rows: usize, now: Instant) -> Result<Charged, f64> {
        self.0.admit(rows, now).map_or_else(|| Ok(Charged { limits: self.0.clone(), rows }), Err)
    }
}

impl Limits {
    fn admit(&self, rows: usize, now: Instant) -> Option<f64> {
        /// The seconds after which a client with too many concurrent calls may try again. It is not known when one of
        /// them will end.
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
    use crate::security::Admitted;

    fn admitted(account: &Account, rows: usize, now: Instant) -> Result<Admitted, f64> {
        account.charged(rows, now).map(Admitted::charged)
    }

    #[test]
    fn calls_per_second() {
        let account = Account::new(2.0, 0.0, 0);
        let now = Instant::now();
        assert!(admitted(&account, 1, now).is_ok() && admitted(&account, 1, now).is_ok());
        assert!(admitted(&account, 1, now).is_err_and(|wait| wait == 0.5));
        assert!(admitted(&account, 1, now + Duration::from_millis(510)).is_ok());
    }

    #[test]
    fn rows_are_overdrawn_once() {
        let account = Account::new(0.0, 10.0, 0);
        let now = Instant::now();
        assert!(admitted(&account, 30, now).is_ok());
        assert!(admitted(&account, 1, now + Duration::from_millis(2000)).is_err());
        assert!(admitted(&account, 1, now + Duration::from_millis(2200)).is_ok());
    }

    #[test]
    fn a_call_that_python_handles_costs_nothing_here() {
        let account = Account::new(1.0, 10.0, 1);
        let now = Instant::now();
        (0..3).for_each(|_| admitted(&account, 30, now).expect("nothing has been used").undo());
    }

    #[test]
    fn a_refused_call_counts_and_its_rows_do_not() {
        let account = Account::new(2.0, 10.0, 0);
        let now = Instant::now();
        (0..2).for_each(|_| admitted(&account, 30, now).expect("no row has been run").give_rows_back());
        assert!(admitted(&account, 1, now).is_err());
    }

    #[test]
    fn concurrent_calls() {
        let account = Account::new(0.0, 0.0, 1);
        let now = Instant::now();
        let first = admitted(&account, 1, now);
        assert!(first.is_ok() && admitted(&account, 1, now).is_err());
        drop(first);
        assert!(admitted(&account, 1, now).is_ok());
    }
}

//! When a call that ended with UNAVAILABLE is retried: gRPC's retry policy and its throttling.

use std::time::Duration;

use parking_lot::Mutex;

/// The initial and largest number of tokens. Calls are retried only while more than half of them are left.
const MAX_TOKENS: f64 = 100.0;
/// The number of tokens that a successful call adds; a failure takes one.
const TOKEN_RATIO: f64 = 0.1;
/// The fraction by which a delay is randomly shortened or lengthened, so that clients do not retry at the same time.
const JITTER: f64 = 0.2;

/// How often a call is tried, and how long it waits before each retry.
pub struct Retry {
    attempts: u32,
    backoff: f64,
    max_backoff: f64,
    tokens: Mutex<f64>,
}

impl Retry {
    /// Backoffs are in seconds.
    pub fn new(attempts: u32, backoff: f64, max_backoff: f64) -> Self {
        Self { attempts, backoff, max_backoff, tokens: Mutex::new(MAX_TOKENS) }
    }

    /// Counts a successful call.
    pub fn answered(&self) {
        let mut tokens = self.tokens.lock();
        *tokens = (*tokens + TOKEN_RATIO).min(MAX_TOKENS);
    }

    /// Counts a failure of a call, which is the call's `failures`th; returns how long to wait before the next attempt,
    /// or None if there must be none.
    pub fn after(&self, failures: u32, random: f64) -> Option<Duration> {
        let mut tokens = self.tokens.lock();
        *tokens = (*tokens - 1.0).max(0.0);
        (failures < self.attempts && *tokens > MAX_TOKENS / 2.0).then(|| self.delay(failures, random))
    }

    fn delay(&self, failures: u32, random: f64) -> Duration {
        let doubled = self.backoff * f64::from(1_u32 << failures.saturating_sub(1).min(16));
        let jitter = 1.0 - JITTER + 2.0 * JITTER * random;
        Duration::try_from_secs_f64(doubled.min(self.max_backoff) * jitter).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let retry = Retry::new(9, 0.01, 0.03);
        let delays: Vec<_> = (1..4).map(|failures| retry.after(failures, 0.5).unwrap().as_micros()).collect();
        assert_eq!(delays, [10_000, 20_000, 30_000]);
        assert_eq!(retry.after(1, 0.0).unwrap().as_micros(), 8_000);
    }

    #[test]
    fn attempts_end() {
        let retry = Retry::new(2, 0.01, 0.01);
        assert!(retry.after(1, 0.0).is_some() && retry.after(2, 0.0).is_none());
        assert!(Retry::new(1, 0.01, 0.01).after(1, 0.0).is_none());
    }

    #[test]
    fn a_client_that_mostly_fails_stops() {
        let retry = Retry::new(5, 0.01, 0.01);
        let tried = (0..1000).filter(|_| retry.after(1, 0.0).is_some()).count();
        assert_eq!(tried, 49);
        (0..600).for_each(|_| retry.answered());
        assert!(retry.after(1, 0.0).is_some());
    }
}

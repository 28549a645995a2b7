//! Records the results of one thread's calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use crate::grpc::Status;

/// Latencies are recorded in nanoseconds, with three significant digits, from a microsecond to an hour.
const LEAST: u64 = 1_000;
const MOST: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// The number of gRPC's codes.
const CODES: usize = 17;

/// The latencies and the codes of calls of one kind.
pub struct Outcomes {
    /// For successful calls: the time from when the call was due to its end.
    pub latency: Histogram<u64>,
    /// For failed calls: the time from sending the call to its end.
    pub failures: Histogram<u64>,
    /// The number of calls that ended with each code.
    pub codes: [u64; CODES],
    /// The total size of the answers to successful calls, in bytes.
    pub bytes: u64,
}

/// Everything that is recorded of one thread's calls.
pub struct Kept {
    /// The outcomes by kind.
    pub kinds: Vec<Outcomes>,
    /// The time from when each call was due until it began.
    pub lag: Histogram<u64>,
    /// The first error text of each code.
    pub texts: Vec<(u8, String)>,
}

/// The results of calls, and the numbers of calls so far, which any thread may read at any time.
pub struct Record {
    pub kept: Mutex<Kept>,
    pub begun: AtomicU64,
    pub ended: AtomicU64,
    pub failed: AtomicU64,
}

/// The result of one call.
pub struct Outcome<'a> {
    pub kind: usize,
    pub status: &'a Status,
    pub latency: Duration,
    pub lag: Duration,
    /// The time since the call was sent.
    pub took: Duration,
    pub bytes: usize,
    /// Whether the call belongs to the measurement, not to the time before or after it.
    pub measured: bool,
}

impl Kept {
    fn new(kinds: usize) -> Self {
        let outcomes = || Outcomes { latency: histogram(), failures: histogram(), codes: [0; CODES], bytes: 0 };
        let kinds = std::iter::repeat_with(outcomes).take(kinds).collect();
        Self { kinds, lag: histogram(), texts: Vec::new() }
    }

    /// The combined records of several threads with this many kinds.
    pub fn sum(kinds: usize, records: &[Arc<Record>]) -> Self {
        let mut sum = Self::new(kinds);
        records.iter().for_each(|record| sum.add(&record.kept.lock()));
        sum
    }

    fn add(&mut self, other: &Self) {
        // All histograms have the same bounds.
        let _ = self.lag.add(&other.lag);
        self.texts.extend(other.texts.iter().cloned());
        for (own, more) in self.kinds.iter_mut().zip(&other.kinds) {
            let _ = own.latency.add(&more.latency);
            let _ = own.failures.add(&more.failures);
            own.codes.iter_mut().zip(more.codes).for_each(|(code, more)| *code += more);
            own.bytes += more.bytes;
        }
    }
}

impl Record {
    pub fn new(kinds: usize) -> Self {
        Self {
            kept: Mutex::new(Kept::new(kinds)),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    pub fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self, outcome: &Outcome<'_>) {
        let went_well = outcome.status.is_ok();
        self.ended.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add((!went_well).into(), Ordering::Relaxed);
        let mut kept = self.kept.lock();
        if !went_well && kept.texts.iter().all(|(code, _)| *code != outcome.status.code) {
            kept.texts.push((outcome.status.code, outcome.status.text.clone()));
        }
        if !outcome.measured {
            return;
        }
        kept.lag.saturating_record(nanoseconds(outcome.lag));
        let Some(kind) = kept.kinds.get_mut(outcome.kind) else { return };
        kind.codes[usize::from(outcome.status.code).min(CODES - 1)] += 1;
        if went_well {
            kind.latency.saturating_record(nanoseconds(outcome.latency));
            kind.bytes += outcome.bytes as u64;
        } else {
            kind.failures.saturating_record(nanoseconds(outcome.took));
        }
    }
}

fn histogram() -> Histogram<u64> {
    // The bounds are valid.
    Histogram::new_with_bounds(LEAST, MOST, DIGITS).expect("the bounds are valid")
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Each recorded value, in nanoseconds, and its count.
pub fn values(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|value| (value.value_iterated_to(), value.count_at_value())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::OK;

    #[test]
    fn only_measured_calls_count() {
        let record = Record::new(2);
        let (well, full) = (Status::new(OK, ""), Status::new(14, "full"));
        let ends = |kind, status, millis, measured| {
            record.begin();
            let latency = Duration::from_millis(millis);
            record.end(&Outcome { kind, status, latency, lag: Duration::ZERO, took: latency, bytes: 8, measured });
        };
        ends(0, &well, 5, true);
        ends(1, &well, 7, true);
        ends(1, &well, 9, false);
        ends(1, &full, 1, true);
        let kept = record.kept.lock();
        assert_eq!((kept.kinds[0].codes[0], kept.kinds[1].codes[0], kept.kinds[1].codes[14]), (1, 1, 1));
        let [(value, count)] = values(&kept.kinds[1].latency)[..] else { panic!("one was measured") };
        assert!(count == 1 && (7_000_000..7_010_000).contains(&value), "{value}");
        assert_eq!(values(&kept.kinds[1].failures).len(), 1);
        assert_eq!(kept.texts, [(14, "full".to_owned())]);
        assert_eq!((record.ended.load(Ordering::Relaxed), record.failed.load(Ordering::Relaxed)), (4, 1));
    }
}

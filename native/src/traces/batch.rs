//! Keeps the batches in which traced requests ran until these requests ask for them.

use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::kinds::Encoded;
use super::span::{SpanId, TraceId};

/// A `headrace_batching.BatchReport`.
#[derive(FromPyObject)]
pub struct Report {
    tasks: u64,
    rows: u64,
    padding: u64,
    began: f64,
    ran: f64,
    pub failed: bool,
    joined: f64,
    computed: f64,
    traced: Vec<f64>,
}

/// A batch that a traced request was in.
pub struct Batch {
    pub kind: Encoded,
    /// The times at which the batch began, had its inputs, had its outputs, and ended, in seconds on the queue's clock.
    pub times: [f64; 4],
    /// The numbers of requests, of rows, and of rows of padding.
    pub counts: [u64; 3],
    /// The batch's span in the trace of each of its requests, once the spans are known.
    pub spans: Mutex<Vec<(TraceId, SpanId)>>,
}

/// Batches by the times when their traced tasks joined their queues.
#[derive(Default)]
pub struct Batches(FxHashMap<u64, Arc<Batch>>);

impl Batches {
    /// Adds a batch that has run. If a task is run again, its later batch replaces the earlier one.
    pub fn add(&mut self, kind: Encoded, report: &Report) {
        let Report { began, joined, computed, ran, .. } = *report;
        let batch = Arc::new(Batch {
            kind,
            times: [began, began + joined, began + joined + computed, began + ran],
            counts: [report.tasks, report.rows, report.padding],
            spans: Mutex::default(),
        });
        for arrived in &report.traced {
            self.0.insert(arrived.to_bits(), batch.clone());
        }
    }

    pub fn has(&self, arrived: f64) -> bool {
        self.0.contains_key(&arrived.to_bits())
    }

    /// Removes the batch of a task, and returns it.
    pub fn take(&mut self, arrived: f64) -> Option<Arc<Batch>> {
        self.0.remove(&arrived.to_bits())
    }

    /// Drops the batches that began before this time: no request has asked for them.
    pub fn forget(&mut self, oldest: f64) {
        self.0.retain(|_, batch| batch.times[0] > oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(began: f64, traced: &[f64]) -> Report {
        let (ran, joined, computed, traced) = (0.5, 0.125, 0.25, traced.to_vec());
        Report { tasks: 4, rows: 6, padding: 2, began, ran, failed: false, joined, computed, traced }
    }

    #[test]
    fn each_task_finds_its_batch_once() {
        let mut batches = Batches::default();
        batches.add(Encoded::from([]), &report(10.0, &[1.0, 2.0]));
        assert!(batches.has(1.0) && batches.has(2.0) && !batches.has(3.0));
        let (first, second) = (batches.take(1.0).unwrap(), batches.take(2.0).unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!((first.times, first.counts), ([10.0, 10.125, 10.375, 10.5], [4, 6, 2]));
        assert!(batches.take(1.0).is_none());
    }

    #[test]
    fn a_task_that_is_run_again_is_in_the_later_batch() {
        let mut batches = Batches::default();
        batches.add(Encoded::from([]), &report(10.0, &[1.0, 2.0]));
        batches.add(Encoded::from([]), &report(11.0, &[2.0]));
        assert_eq!(batches.take(2.0).unwrap().times[0], 11.0);
        assert_eq!(batches.take(1.0).unwrap().times[0], 10.0);
    }

    #[test]
    fn batches_are_forgotten_by_their_age() {
        let mut batches = Batches::default();
        batches.add(Encoded::from([]), &report(10.0, &[1.0]));
        batches.add(Encoded::from([]), &report(20.0, &[2.0]));
        batches.forget(10.0);
        assert!(!batches.has(1.0) && batches.has(2.0));
    }
}

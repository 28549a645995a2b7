//! The definition of a load: its requests, when they are sent, and over how many connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pyo3::prelude::*;

use super::arrivals::Arrivals;
use crate::client::{ClientRequest, Message};

/// The settings of a load from Python.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Plan {
    pub threads: usize,
    pub connections: usize,
    /// The number of calls in flight in a closed loop, and the maximum in an open one.
    pub concurrency: usize,
    /// Calls per second; 0 for a closed loop, unless there are `times`.
    rate: f64,
    poisson: bool,
    /// For a recorded load: the time at which each call begins, in seconds. Otherwise empty.
    times: Vec<f64>,
    /// For a recorded load: the kind of each call. Otherwise empty.
    order: Vec<usize>,
    /// The duration of the warm-up in seconds.
    warmup: f64,
    /// The duration of the measurement in seconds.
    seconds: f64,
    /// The timeout of a call in seconds.
    timeout: f64,
    seed: u64,
}

impl Plan {
    pub fn timeout(&self) -> Duration {
        duration(self.timeout)
    }

    pub fn warmup(&self) -> Duration {
        duration(self.warmup)
    }

    /// The time from the beginning of the warm-up to the end of the measurement.
    pub fn length(&self) -> Duration {
        duration(self.warmup + self.seconds)
    }

    /// When the calls of a thread begin; None in a closed loop.
    pub fn arrivals(&self, thread: usize) -> Option<Arrivals> {
        let (share, seconds) = ((thread, self.threads), self.warmup + self.seconds);
        if !self.times.is_empty() {
            let own = self.times.iter().skip(thread).step_by(self.threads).copied();
            return Some(Arrivals::Times(own.collect::<Vec<_>>().into_iter()));
        }
        if self.rate <= 0.0 {
            return None;
        }
        let poisson = self.poisson.then(|| Arrivals::poisson(self.rate, share, seconds, self.seed));
        Some(poisson.unwrap_or_else(|| Arrivals::constant(self.rate, share, seconds)))
    }

    /// A thread's share of a number, at least 1.
    pub fn share(&self, of: usize, thread: usize) -> usize {
        (of / self.threads + usize::from(thread < of % self.threads)).max(1)
    }

    /// Chooses the kinds of a thread's calls.
    pub fn chooser(&self, thread: usize) -> Chooser {
        let order: Vec<_> = self.order.iter().skip(thread).step_by(self.threads).copied().collect();
        Chooser { order: order.into_iter(), random: fastrand::Rng::with_seed(self.seed ^ (thread as u64) << 32) }
    }
}

fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The requests of one kind, which are sent in turn.
pub struct Kind {
    weight: f64,
    messages: Vec<Message>,
    next: AtomicUsize,
}

impl Kind {
    pub fn new(weight: f64, requests: &[PyRef<'_, ClientRequest>]) -> Self {
        let messages = requests.iter().map(|request| request.message.clone()).collect();
        Self { weight, messages, next: AtomicUsize::new(0) }
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn message(&self) -> &Message {
        &self.messages[self.next.fetch_add(1, Ordering::Relaxed) % self.messages.len()]
    }
}

/// Chooses the kind of each call: as it was recorded, or at random, by weight.
pub struct Chooser {
    order: std::vec::IntoIter<usize>,
    random: fastrand::Rng,
}

impl Chooser {
    pub fn choose(&mut self, kinds: &[Kind]) -> usize {
        if let Some(recorded) = self.order.next() {
            return recorded.min(kinds.len() - 1);
        }
        let total: f64 = kinds.iter().map(|kind| kind.weight).sum();
        let mut left = self.random.f64() * total;
        let found = kinds.iter().position(|kind| {
            left -= kind.weight;
            left < 0.0
        });
        found.unwrap_or(kinds.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(threads: usize, rate: f64, times: Vec<f64>, order: Vec<usize>) -> Plan {
        Plan {
            threads,
            connections: 4,
            concurrency: 10,
            rate,
            poisson: false,
            times,
            order,
            warmup: 0.1,
            seconds: 0.4,
            timeout: 1.0,
            seed: 1,
        }
    }

    fn kinds(weights: &[f64]) -> Vec<Kind> {
        let kind = |weight: &f64| Kind { weight: *weight, messages: Vec::new(), next: AtomicUsize::new(0) };
        weights.iter().map(kind).collect()
    }

    #[test]
    fn threads_share_the_callers() {
        let plan = plan(3, 0.0, vec![], vec![]);
        assert_eq!([0, 1, 2].map(|thread| plan.share(10, thread)), [4, 3, 3]);
        assert_eq!([0, 1, 2].map(|thread| plan.share(1, thread)), [1, 1, 1]);
        assert!(plan.arrivals(0).is_none());
    }

    #[test]
    fn threads_take_recorded_requests_in_turn() {
        let plan = plan(2, 0.0, vec![0.0, 0.1, 0.2], vec![1, 0, 1]);
        let of = |thread| {
            let mut chooser = plan.chooser(thread);
            let kinds = kinds(&[1.0, 1.0]);
            let millis = plan.arrivals(thread).unwrap().map(|at| at.as_millis());
            millis.map(|at| (at, chooser.choose(&kinds))).collect::<Vec<_>>()
        };
        assert_eq!((of(0), of(1)), (vec![(0, 1), (200, 1)], vec![(100, 0)]));
    }

    #[test]
    fn kinds_are_mixed_by_weight() {
        let (mut chooser, kinds) = (plan(1, 1.0, vec![], vec![]).chooser(0), kinds(&[3.0, 1.0]));
        let first = (0..10_000).filter(|_| chooser.choose(&kinds) == 0).count();
        assert!((7_300..7_700).contains(&first), "{first}");
    }

    #[test]
    fn the_warm_up_comes_first() {
        let plan = plan(1, 100.0, vec![], vec![]);
        assert_eq!(plan.arrivals(0).unwrap().count(), 50);
        assert_eq!((plan.warmup().as_millis(), plan.length().as_millis()), (100, 500));
    }
}

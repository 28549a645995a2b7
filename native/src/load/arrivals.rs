//! When calls should begin. The times are planned in advance, so that a slow server does not slow the load down.

use std::time::Duration;

use fastrand::Rng;

/// The times at which the calls of one thread begin, relative to the start of its load.
pub enum Arrivals {
    /// Calls at `first`, and every `interval` after it. Each time is computed from a count, not summed up, so that
    /// rounding errors do not accumulate.
    Constant { first: f64, interval: f64, begun: u32, end: f64 },
    /// A Poisson process: exponential gaps with this mean.
    Poisson { next: f64, mean: f64, end: f64, random: Rng },
    /// Calls at these times, in seconds.
    Times(std::vec::IntoIter<f64>),
}

impl Arrivals {
    /// One thread's share of `rate` calls per second, given the thread's index and the number of threads.
    pub fn constant(rate: f64, (thread, threads): (usize, usize), seconds: f64) -> Self {
        Self::Constant { first: thread as f64 / rate, interval: threads as f64 / rate, begun: 0, end: seconds }
    }

    /// Calls at the same rate, but at random times.
    pub fn poisson(rate: f64, (thread, threads): (usize, usize), seconds: f64, seed: u64) -> Self {
        let mut random = Rng::with_seed(seed.wrapping_add(thread as u64));
        let mean = threads as f64 / rate;
        Self::Poisson { next: exponential(&mut random, mean), mean, end: seconds, random }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let at = match self {
            Self::Constant { first, interval, begun, end } => {
                let at = *first + f64::from(*begun) * *interval;
                *begun = begun.saturating_add(1);
                (at < *end).then_some(at)
            }
            Self::Poisson { next, mean, end, random } => {
                let at = *next;
                *next += exponential(random, *mean);
                (at < *end).then_some(at)
            }
            Self::Times(times) => times.next(),
        };
        at.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }
}

fn exponential(random: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - random.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_ones_are_shared_among_threads() {
        let of = |thread| Arrivals::constant(10.0, (thread, 2), 0.45).map(|at| at.as_millis()).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![0, 200, 400], vec![100, 300]));
    }

    #[test]
    fn poisson_ones_have_the_rate_and_the_spread() {
        let at: Vec<_> = Arrivals::poisson(1000.0, (0, 1), 60.0, 7).map(|at| at.as_secs_f64()).collect();
        let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.97..1.03).contains(&(mean * 1000.0)), "{mean}");
        // The standard deviation of an exponential distribution is its mean.
        assert!((0.95..1.05).contains(&(variance.sqrt() / mean)), "{variance}");
    }

    #[test]
    fn other_seeds_give_other_arrivals() {
        let of = |seed| Arrivals::poisson(100.0, (0, 1), 1.0, seed).collect::<Vec<_>>();
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }
}

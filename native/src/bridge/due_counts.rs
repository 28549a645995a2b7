//! Decides when Python counts runs without the interpreter: seldom, since calls wait meanwhile.
//!
//! Python needs half a millisecond to count a few hundred runs, and 1.5 ms for four thousand. On a machine with two
//! cores, calls often wait for the core that counts. In an earlier version, Python counted the runs of a busy model 50
//! times a second, which delayed more than one call in a hundred.

use std::sync::Weak;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::native_run::NativeRun;

/// The minimum time between two counts.
const APART: Duration = Duration::from_millis(250);

/// The lanes whose runs are to be counted. May be used on any thread.
#[derive(Default)]
pub struct DueCounts {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: Vec<Weak<NativeRun>>,
    /// When lanes were last taken; None before the first time.
    taken: Option<Instant>,
}

impl DueCounts {
    /// Adds a lane.
    pub fn add(&self, lane: Weak<NativeRun>) {
        self.state.lock().lanes.push(lane);
    }

    /// Whether there are any lanes, even if it is too early to take them.
    pub fn wait(&self) -> bool {
        !self.state.lock().lanes.is_empty()
    }

    /// Whether there are lanes, and they may be taken at this time.
    pub fn are_due(&self, now: Instant) -> bool {
        self.state.lock().are_due(now)
    }

    /// Removes and returns the lanes if they are due, and none otherwise.
    pub fn take(&self, now: Instant) -> Vec<Weak<NativeRun>> {
        let mut state = self.state.lock();
        if !state.are_due(now) {
            return Vec::new();
        }
        state.taken = Some(now);
        std::mem::take(&mut state.lanes)
    }
}

impl State {
    fn are_due(&self, now: Instant) -> bool {
        !self.lanes.is_empty() && self.taken.is_none_or(|taken| now.saturating_duration_since(taken) >= APART)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_taken_at_most_four_times_a_second() {
        let (counts, began) = (DueCounts::default(), Instant::now());
        assert!(!counts.wait() && !counts.are_due(began));
        let mut taken = Vec::new();
        for passed in (0..600).step_by(50).map(Duration::from_millis) {
            counts.add(Weak::new());
            let due = counts.are_due(began + passed);
            let count = counts.take(began + passed).len();
            assert_eq!(due, count > 0);
            assert_eq!(counts.wait(), count == 0);
            if count > 0 {
                taken.push((passed.as_millis(), count));
            }
        }
        assert_eq!(taken, [(0, 1), (250, 5), (500, 5)]);
    }

    #[test]
    fn a_lane_that_comes_after_a_pause_is_taken_at_once() {
        let (counts, began) = (DueCounts::default(), Instant::now());
        for passed in [Duration::ZERO, APART] {
            assert!(counts.take(began + passed).is_empty());
            counts.add(Weak::new());
            assert_eq!(counts.take(began + passed).len(), 1);
        }
    }
}

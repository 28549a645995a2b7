//! Whether a thread that has just answered a lone call looks for the next one awake: to be woken costs it more than the
//! call itself.

use std::time::Duration;

/// For how long it looks. A caller that has waited for its answer calls again within this time, or takes a break.
pub const SPAN: Duration = Duration::from_micros(200);

/// The most calls, after one that was looked for in vain, that are not looked for.
const MOST_SKIPPED: u32 = 256;

/// What one thread has learned of its callers.
#[derive(Default)]
pub struct Patience {
    skip: u32,
    skipped: u32,
}

impl Patience {
    /// A lone call has been answered: whether to look for the next one.
    pub fn lasts(&mut self) -> bool {
        let lasts = self.skipped >= self.skip;
        self.skipped = if lasts { 0 } else { self.skipped + 1 };
        lasts
    }

    /// One was looked for, and came or not. Those in vain are few, whatever the callers do.
    pub fn learn(&mut self, came: bool) {
        self.skip = if came { 0 } else { (2 * self.skip + 1).min(MOST_SKIPPED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(patience: &mut Patience, calls: usize, came: bool) -> usize {
        let mut looks = 0;
        for _ in 0..calls {
            if patience.lasts() {
                patience.learn(came);
                looks += 1;
            }
        }
        looks
    }

    #[test]
    fn a_caller_that_calls_again_at_once_is_looked_for_every_time() {
        assert_eq!(looks(&mut Patience::default(), 1000, true), 1000);
    }

    #[test]
    fn one_that_takes_its_time_is_hardly_looked_for() {
        assert!(looks(&mut Patience::default(), 10_000, false) < 50);
    }

    #[test]
    fn whoever_comes_in_time_is_looked_for_again() {
        let mut patience = Patience::default();
        looks(&mut patience, 10_000, false);
        let found = (0..=MOST_SKIPPED).any(|_| patience.lasts());
        patience.learn(true);

        assert!(found);
        assert_eq!(looks(&mut patience, 10, true), 10);
    }
}

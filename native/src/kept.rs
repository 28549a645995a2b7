//! Keeps Python's answers, so that Python need not answer the same question twice.
//!
//! Python decides which answers may be kept, and until when, and reports when the server's state has changed: then all
//! answers are dropped. An answer is kept only if the state has not changed since the question was asked, because
//! the answer may depend on the state.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

/// The maximum length of a question in bytes.
pub const MAX_QUESTION: usize = 1 << 10;

/// The maximum number of kept answers. Beyond it, all answers are dropped.
const MAX_ANSWERS: usize = 1000;

/// The maximum size of all kept answers together, in bytes. Beyond it, all answers are dropped.
const MAX_BYTES: usize = 8 << 20;

/// Answers by their questions. May be used on any thread.
pub struct Kept<Q, A> {
    table: RwLock<Table<Q, A>>,
}

struct Table<Q, A> {
    state: u64,
    bytes: usize,
    answers: HashMap<Q, Answer<A>>,
}

/// A kept answer.
pub struct Answer<A> {
    pub answer: A,
    /// The size of the answer and its question.
    pub bytes: usize,
    /// The time at which the answer expires; None means that it expires only with the state.
    pub until: Option<Instant>,
}

impl<Q, A> Default for Kept<Q, A> {
    fn default() -> Self {
        Self { table: RwLock::new(Table { state: 0, bytes: 0, answers: HashMap::new() }) }
    }
}

impl<Q: Hash + Eq, A: Clone> Kept<Q, A> {
    /// The number of the current state, to be noted when a question is asked.
    pub fn state(&self) -> u64 {
        self.table.read().state
    }

    /// The answer to a question, if it has been answered in this state and has not expired.
    pub fn find<K: Hash + Eq + ?Sized>(&self, question: &K, now: Instant) -> Option<A>
    where
        Q: Borrow<K>,
    {
        let table = self.table.read();
        let kept = table.answers.get(question)?;
        kept.until.is_none_or(|until| now < until).then(|| kept.answer.clone())
    }

    /// Keeps an answer to a question that was asked in the state with this number.
    pub fn put(&self, state: u64, question: Q, answer: Answer<A>) {
        let mut table = self.table.write();
        if state != table.state || answer.bytes > MAX_BYTES {
            return;
        }
        if let Some(before) = table.answers.remove(&question) {
            table.bytes -= before.bytes;
        }
        if table.answers.len() >= MAX_ANSWERS || table.bytes + answer.bytes > MAX_BYTES {
            table.answers.clear();
            table.bytes = 0;
        }
        table.bytes += answer.bytes;
        table.answers.insert(question, answer);
    }

    /// Drops all answers, because the state has changed.
    pub fn forget(&self) {
        let mut table = self.table.write();
        table.state += 1;
        table.bytes = 0;
        let before = std::mem::take(&mut table.answers);
        drop(table);
        drop(before);
    }
}

/// The time that is `seconds` from now; an error text if the clock cannot represent it.
pub fn after(seconds: f64) -> Result<Instant, String> {
    let left = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    Instant::now().checked_add(left).ok_or_else(|| format!("{seconds} seconds are more than the clock can count"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lasting(answer: u32, bytes: usize) -> Answer<u32> {
        Answer { answer, bytes, until: None }
    }

    #[test]
    fn an_answer_holds_until_the_state_changes() {
        let (kept, now) = (Kept::<String, u32>::default(), Instant::now());
        kept.put(kept.state(), "a".into(), lasting(1, 1));
        assert_eq!((kept.find("a", now), kept.find("b", now)), (Some(1), None));
        kept.forget();
        assert_eq!(kept.find("a", now), None);
    }

    #[test]
    fn an_answer_from_before_a_change_is_not_kept() {
        let kept = Kept::<String, u32>::default();
        let asked_in = kept.state();
        kept.forget();
        kept.put(asked_in, "a".into(), lasting(1, 1));
        assert_eq!(kept.find("a", Instant::now()), None);
    }

    #[test]
    fn an_answer_may_expire_earlier_and_be_replaced() {
        let (kept, now) = (Kept::<String, u32>::default(), Instant::now());
        let until = now + Duration::from_millis(500);
        kept.put(0, "a".into(), Answer { answer: 1, bytes: MAX_BYTES, until: Some(until) });
        assert_eq!((kept.find("a", now), kept.find("a", until)), (Some(1), None));
        kept.put(0, "a".into(), lasting(2, MAX_BYTES - 1));
        kept.put(0, "b".into(), lasting(3, 1));
        assert_eq!((kept.find("a", until), kept.find("b", until)), (Some(2), Some(3)));
    }

    #[test]
    fn the_number_and_the_bytes_of_kept_answers_are_bounded() {
        let (kept, now) = (Kept::<usize, u32>::default(), Instant::now());
        let found = |number| (kept.find(&number, now), kept.find(&MAX_ANSWERS, now));
        (0..=MAX_ANSWERS).for_each(|number| kept.put(0, number, lasting(1, 1)));
        assert_eq!(found(0), (None, Some(1)));
        kept.put(0, 1, lasting(1, MAX_BYTES + 1));
        assert_eq!(found(1), (None, Some(1)));
        kept.put(0, 2, lasting(1, MAX_BYTES));
        assert_eq!(found(2), (Some(1), None));
    }

    #[test]
    fn a_time_that_no_clock_can_count_is_an_error() {
        assert!(after(60.0).is_ok_and(|until| until > Instant::now()));
        for seconds in [-1.0, f64::NAN, 1e19, 1e30] {
            assert!(after(seconds).is_err(), "{seconds}");
        }
    }
}

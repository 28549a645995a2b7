//! Keeps answers that are valid until the server's state changes, so that Python need not answer the same question
//! twice.
//!
//! Python decides which answers these are, and reports when the state has changed. An answer is kept only if the state
//! has not changed since the question was asked, since the answer may depend on the state.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::RwLock;

/// The maximum length of a question in bytes.
pub const MAX_QUESTION: usize = 1 << 10;

/// The maximum number of kept answers, and the maximum of their bytes in all. Beyond either, all answers are dropped.
const MAX_ANSWERS: usize = 1000;
const MAX_BYTES: usize = 8 << 20;

/// Answers by their questions. Any thread.
pub struct Kept<Q, A> {
    table: RwLock<Table<Q, A>>,
}

struct Table<Q, A> {
    state: u64,
    bytes: usize,
    answers: HashMap<Q, A>,
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

    /// The answer to a question, if it has been answered in this state.
    pub fn find<K: Hash + Eq + ?Sized>(&self, question: &K) -> Option<A>
    where
        Q: Borrow<K>,
    {
        self.table.read().answers.get(question).cloned()
    }

    /// Keeps an answer of this size to a question that was asked in the state with this number.
    pub fn put(&self, state: u64, question: Q, answer: A, bytes: usize) {
        let mut table = self.table.write();
        if state != table.state || bytes > MAX_BYTES {
            return;
        }
        if table.answers.len() >= MAX_ANSWERS || table.bytes + bytes > MAX_BYTES {
            table.answers.clear();
            table.bytes = 0;
        }
        table.bytes += bytes;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_until_the_state_changes() {
        let kept = Kept::<String, u32>::default();
        kept.put(kept.state(), "a".into(), 1, 1);
        assert_eq!((kept.find("a"), kept.find("b")), (Some(1), None));
        kept.forget();
        assert_eq!(kept.find("a"), None);
    }

    #[test]
    fn an_answer_made_of_the_state_before_is_not_kept() {
        let kept = Kept::<String, u32>::default();
        let asked_in = kept.state();
        kept.forget();
        kept.put(asked_in, "a".into(), 1, 1);
        assert_eq!(kept.find("a"), None);
    }

    #[test]
    fn what_is_kept_has_bounds() {
        let kept = Kept::<usize, u32>::default();
        (0..=MAX_ANSWERS).for_each(|number| kept.put(0, number, 1, 1));
        assert_eq!((kept.find(&0), kept.find(&MAX_ANSWERS)), (None, Some(1)));
        kept.put(0, 1, 1, MAX_BYTES + 1);
        assert_eq!((kept.find(&1), kept.find(&MAX_ANSWERS)), (None, Some(1)));
        kept.put(0, 2, 1, MAX_BYTES);
        assert_eq!((kept.find(&2), kept.find(&MAX_ANSWERS)), (Some(1), None));
    }
}

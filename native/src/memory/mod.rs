//! The memory that callers make the server hold: one budget for all, a share of it for each connection, by kind.
//!
//! A connection may take as much as it leaves free: one alone gets half of the budget, and of two that want all each gets
//! a third. So there is always room for one that comes later.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What a kind of memory is called in metrics, in the order of `Kind`.
pub const KINDS: [&str; 4] = ["calls", "received", "expanded", "answers"];

/// What memory is held for.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A call beside its message: its stream, its headers.
    Calls = 0,
    /// Requests as they come in, until their batch has run.
    Received = 1,
    /// What compressed requests have become.
    Expanded = 2,
    /// Answers, expected from the moment that a call waits, until their client has taken them.
    Answers = 3,
}

type ByKind = [AtomicUsize; KINDS.len()];

/// What all callers together may make the server hold, in bytes.
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    kinds: ByKind,
    refusals: AtomicU64,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), kinds: ByKind::default(), refusals: AtomicU64::new(0) }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// What is held now of each kind.
    pub fn by_kind(&self) -> [usize; KINDS.len()] {
        self.kinds.each_ref().map(|used| used.load(Ordering::Relaxed))
    }

    /// How often there was too little left.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// What one connection holds of a budget.
pub struct Share {
    budget: Arc<Budget>,
    used: AtomicUsize,
    /// Bytes of requests that have ever come.
    pub came: AtomicUsize,
    /// Messages of which a part has come.
    pub begun: AtomicUsize,
}

impl Share {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self { budget, used: AtomicUsize::new(0), came: AtomicUsize::new(0), begun: AtomicUsize::new(0) }
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    fn take(&self, kind: Kind, bytes: usize) -> bool {
        let budget = &*self.budget;
        let own = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let all = budget.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if own > budget.limit.saturating_sub(all) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
            budget.refusals.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        budget.kinds[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        true
    }

    fn give_back(&self, kind: usize, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.used.fetch_sub(bytes, Ordering::Relaxed);
        self.budget.kinds[kind].fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What one call holds, given back when nobody needs it any more. Any thread.
pub struct CallMemory {
    share: Arc<Share>,
    held: ByKind,
}

impl CallMemory {
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, held: ByKind::default() }
    }

    /// Takes so many bytes more, if they may be had.
    pub fn grow(&self, kind: Kind, bytes: usize) -> bool {
        let taken = self.share.take(kind, bytes);
        if taken {
            self.held[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Holds so many bytes of a kind, more or fewer than before, if they may be had.
    pub fn set(&self, kind: Kind, bytes: usize) -> bool {
        let held = self.held[kind as usize].load(Ordering::Relaxed);
        if bytes > held {
            return self.grow(kind, bytes - held);
        }
        self.held[kind as usize].fetch_sub(held - bytes, Ordering::Relaxed);
        self.share.give_back(kind as usize, held - bytes);
        true
    }

    /// Takes what has just come of a request, if it may be had.
    pub fn receive(&self, bytes: usize) -> bool {
        self.share.came.fetch_add(bytes, Ordering::Relaxed);
        self.grow(Kind::Received, bytes)
    }

    /// Gives back what the request took: it is not needed any more.
    pub fn drop_request(&self) {
        self.set(Kind::Received, 0);
        self.set(Kind::Expanded, 0);
    }

    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }
}

impl Drop for CallMemory {
    fn drop(&mut self) {
        for (kind, held) in self.held.iter_mut().enumerate() {
            let held = *held.get_mut();
            if held > 0 {
                self.share.give_back(kind, held);
            }
        }
    }
}

/// A message of which a part has come, for as long as this lives.
pub struct Begun(Arc<Share>);

impl Begun {
    pub fn new(share: Arc<Share>) -> Self {
        share.begun.fetch_add(1, Ordering::Relaxed);
        Self(share)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.begun.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(limit: usize, connections: usize) -> Vec<CallMemory> {
        let budget = Arc::new(Budget::new(limit));
        (0..connections).map(|_| CallMemory::new(Arc::new(Share::new(budget.clone())))).collect()
    }

    fn greedy(call: &CallMemory) -> usize {
        (0..).take_while(|_| call.grow(Kind::Received, 1)).count()
    }

    #[test]
    fn a_connection_leaves_as_much_as_it_takes() {
        for connections in 1..5 {
            let calls = calls(1200, connections);
            // They take turns, as callers do.
            let mut rounds = 0;
            while calls.iter().filter(|call| call.grow(Kind::Received, 1)).count() > 0 {
                rounds += 1;
            }
            assert!(rounds >= 1200 / (connections + 1), "{connections} connections got {rounds} each");
        }
    }

    #[test]
    fn there_is_room_for_one_that_comes_later() {
        let calls = calls(1 << 20, 2);
        assert_eq!(greedy(&calls[0]), 1 << 19);
        assert_eq!(greedy(&calls[1]), 1 << 18);
    }

    #[test]
    fn all_is_given_back() {
        let calls = calls(1000, 1);
        let budget = calls[0].share().budget.clone();
        assert!(calls[0].grow(Kind::Answers, 300) && calls[0].receive(100) && calls[0].set(Kind::Answers, 200));
        assert_eq!(budget.by_kind(), [0, 100, 0, 200]);
        calls[0].drop_request();
        assert_eq!(budget.by_kind(), [0, 0, 0, 200]);
        assert!(!calls[0].grow(Kind::Calls, usize::MAX / 2));
        assert_eq!((budget.refusals(), budget.by_kind()), (1, [0, 0, 0, 200]));
        drop(calls);
        assert_eq!(budget.by_kind(), [0; 4]);
    }
}

//! Limits the memory that the server uses for clients: there is one budget for all clients, and each connection has a
//! share of it.
//!
//! A connection may take as much as it leaves free: a single connection gets half of the budget, and if two want
//! everything, each gets a third. So there is always room for another connection.

mod buffers;
mod outgoing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub use buffers::{Growing, NoMemory, append, buffer, copied, put, reserve, vec};
pub use outgoing::{Outgoing, Place};

/// The name of a kind of memory in metrics, in the order of `Kind`.
pub const KINDS: [&str; 4] = ["calls", "received", "expanded", "answers"];

/// The purpose of memory.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A call without its message: its stream and its headers.
    Calls = 0,
    /// Received requests, until their batch has run.
    Received = 1,
    /// Decompressed requests.
    Expanded = 2,
    /// Answers: estimated when a call is queued, and counted until the client has read the answer.
    Answers = 3,
}

type ByKind = [AtomicUsize; KINDS.len()];

/// An amount this small is only returned when its call has ended: if two threads often wrote the same counter, they
/// would contend.
const LITTLE: usize = 4 << 10;

/// The limit for all clients together, in bytes.
pub struct Budget {
    limit: usize,
    kinds: ByKind,
    refusals: AtomicU64,
}

impl Budget {
    pub fn new(limit: usize) -> Self {
        Self { limit, kinds: ByKind::default(), refusals: AtomicU64::new(0) }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// The number of bytes in use now, by kind.
    pub fn by_kind(&self) -> [usize; KINDS.len()] {
        self.kinds.each_ref().map(|used| used.load(Ordering::Relaxed))
    }

    fn used(&self) -> usize {
        self.kinds.iter().fold(0, |sum, used| sum.saturating_add(used.load(Ordering::Relaxed)))
    }

    /// How often memory was refused because too little was left.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// One connection's part of a budget.
pub struct Share {
    budget: Arc<Budget>,
    used: AtomicUsize,
    /// The answers that wait for the client to read them.
    pub outgoing: Outgoing,
    /// The number of bytes of requests received so far.
    pub came: AtomicUsize,
    /// The number of messages that have been received in part.
    pub begun: AtomicUsize,
}

impl Share {
    pub fn new(budget: Arc<Budget>) -> Self {
        let outgoing = Outgoing::default();
        Self { budget, used: AtomicUsize::new(0), outgoing, came: AtomicUsize::new(0), begun: AtomicUsize::new(0) }
    }

    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    fn take(&self, kind: Kind, bytes: usize) -> bool {
        let budget = &*self.budget;
        let own = self.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        budget.kinds[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        if own > budget.limit.saturating_sub(budget.used()) {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            budget.kinds[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        true
    }
}

/// The memory of one call, which is returned when this is dropped. May be used on any thread.
pub struct CallMemory {
    share: Arc<Share>,
    held: ByKind,
}

impl CallMemory {
    pub fn new(share: Arc<Share>) -> Self {
        Self { share, held: ByKind::default() }
    }

    /// Reserves this many more bytes for the call, if they are available; returns whether they are.
    pub fn grow(&self, kind: Kind, bytes: usize) -> bool {
        let grown = self.grow_if_free(kind, bytes);
        if !grown {
            self.count_refusal();
        }
        grown
    }

    fn count_refusal(&self) {
        self.share.budget.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// Like `grow`, but does not count a refusal, since the call can do without this memory.
    pub fn grow_if_free(&self, kind: Kind, bytes: usize) -> bool {
        let taken = bytes == 0 || self.share.take(kind, bytes);
        if taken && bytes > 0 {
            self.held[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Changes how many bytes of a kind the call has: to this many or slightly more, if they are available. Returns
    /// whether they are.
    pub fn set(&self, kind: Kind, bytes: usize) -> bool {
        let is_set = self.set_if_free(kind, bytes);
        if !is_set {
            self.count_refusal();
        }
        is_set
    }

    /// Like `set`, but does not count a refusal.
    fn set_if_free(&self, kind: Kind, bytes: usize) -> bool {
        let held = self.held[kind as usize].load(Ordering::Relaxed);
        if bytes > held {
            return self.grow_if_free(kind, bytes - held);
        }
        let rest = held - bytes;
        if rest > LITTLE {
            self.held[kind as usize].fetch_sub(rest, Ordering::Relaxed);
            self.share.used.fetch_sub(rest, Ordering::Relaxed);
            self.share.budget.kinds[kind as usize].fetch_sub(rest, Ordering::Relaxed);
        }
        true
    }

    /// Reserves memory for newly received bytes of a request, if it is available; returns whether it is.
    pub fn receive(&self, bytes: usize) -> bool {
        self.share.came.fetch_add(bytes, Ordering::Relaxed);
        self.grow(Kind::Received, bytes)
    }

    /// Returns the memory of the request, which is no longer needed.
    pub fn drop_request(&self) {
        self.set(Kind::Received, 0);
        self.set(Kind::Expanded, 0);
    }

    pub fn share(&self) -> &Arc<Share> {
        &self.share
    }

    pub fn budget(&self) -> &Budget {
        self.share.budget()
    }
}

impl Drop for CallMemory {
    fn drop(&mut self) {
        let mut all = 0;
        for (held, kind) in self.held.iter_mut().map(AtomicUsize::get_mut).zip(&self.share.budget.kinds) {
            if *held > 0 {
                kind.fetch_sub(*held, Ordering::Relaxed);
                all += *held;
            }
        }
        if all > 0 {
            self.share.used.fetch_sub(all, Ordering::Relaxed);
        }
    }
}

/// The memory of a call without a limit.
#[cfg(test)]
pub fn unlimited() -> CallMemory {
    CallMemory::new(Arc::new(Share::new(Arc::new(Budget::new(usize::MAX)))))
}

/// Counts a message that has been received in part, until this is dropped.
pub struct Begun(Arc<CallMemory>);

impl Begun {
    pub fn new(call: Arc<CallMemory>) -> Self {
        call.share.begun.fetch_add(1, Ordering::Relaxed);
        Self(call)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.share.begun.fetch_sub(1, Ordering::Relaxed);
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
            // The calls grow in turn, as those of real clients do.
            let mut rounds = 0;
            while calls.iter().filter(|call| call.grow(Kind::Received, 1)).count() > 0 {
                rounds += 1;
            }
            assert!(rounds >= 1200 / (connections + 1), "{connections} connections got {rounds} each");
        }
    }

    #[test]
    fn there_is_room_for_a_later_connection() {
        let calls = calls(1 << 20, 2);
        assert_eq!(greedy(&calls[0]), 1 << 19);
        assert_eq!(greedy(&calls[1]), 1 << 18);
    }

    #[test]
    fn all_is_given_back() {
        const MUCH: usize = 2 * LITTLE;
        let calls = calls(10 * MUCH, 1);
        let (call, budget) = (&calls[0], calls[0].share().budget.clone());
        assert!(call.grow(Kind::Answers, 3 * MUCH) && call.receive(MUCH) && call.set(Kind::Answers, 2 * MUCH));
        assert_eq!(budget.by_kind(), [0, MUCH, 0, 2 * MUCH]);
        call.drop_request();
        assert_eq!(budget.by_kind(), [0, 0, 0, 2 * MUCH]);
        assert!(!call.grow(Kind::Calls, usize::MAX / 2));
        assert_eq!((budget.refusals(), budget.by_kind()), (1, [0, 0, 0, 2 * MUCH]));
        drop(calls);
        assert_eq!(budget.by_kind(), [0; 4]);
    }

    #[test]
    fn the_memory_of_a_call_is_given_back_at_its_end() {
        let calls = calls(1 << 20, 1);
        let (call, budget) = (&calls[0], calls[0].share().budget.clone());
        assert!(call.receive(LITTLE) && call.grow(Kind::Answers, 2 * LITTLE) && call.set(Kind::Answers, LITTLE));
        call.drop_request();
        assert_eq!(budget.by_kind(), [0, LITTLE, 0, 2 * LITTLE]);
        assert!(call.set(Kind::Answers, 2 * LITTLE));
        assert_eq!(budget.by_kind(), [0, LITTLE, 0, 2 * LITTLE]);
        drop(calls);
        assert_eq!((budget.by_kind(), budget.used()), ([0; 4], 0));
    }
}

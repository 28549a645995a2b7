//! The answers of one connection that its client has not read yet: while there are too many, its next calls wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use super::CallMemory;

/// The number of unread bytes beyond which a client's next calls wait. A single answer may be larger.
const ENOUGH: usize = 16 << 20;

/// The number of bytes that an answer takes besides its content: a stream, its trailers, its entry in a queue.
const STREAM: usize = 1024;

/// The maximum number of calls that wait in this way; a client that keeps calling without reading gets an error.
const MOST_HELD: usize = 1000;

/// Counts the bytes that h2 buffers for a client. May be used on any thread.
#[derive(Default)]
pub struct Outgoing {
    answered: Apart,
    left: Apart,
    held: AtomicUsize,
    room: Notify,
}

/// A counter on a cache line of its own: batch threads write one of the two counters, and the connection's thread the
/// other.
#[derive(Default)]
#[repr(align(64))]
struct Apart(AtomicUsize);

impl Outgoing {
    /// How many bytes now wait for the client, and how many have been sent so far.
    pub fn progress(&self) -> (usize, usize) {
        let left = self.left.0.load(Ordering::Relaxed);
        (self.answered.0.load(Ordering::Relaxed).wrapping_sub(left), left)
    }

    pub fn is_full(&self) -> bool {
        self.progress().0 > ENOUGH
    }
}

impl CallMemory {
    /// The same bytes, which count as unread, and keep the call's memory reserved, until they have been sent or
    /// discarded.
    pub fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.share.outgoing.answered.0.fetch_add(STREAM + bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, memory: self.clone() })
    }

    /// A place for a waiting call; None if all are taken.
    pub fn hold(self: &Arc<Self>) -> Option<Place> {
        let place = Place(self.clone());
        (self.share.outgoing.held.fetch_add(1, Ordering::Relaxed) < MOST_HELD).then_some(place)
    }
}

struct Counted {
    bytes: Bytes,
    memory: Arc<CallMemory>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let outgoing = &self.memory.share.outgoing;
        let size = STREAM + self.bytes.len();
        let left = outgoing.left.0.fetch_add(size, Ordering::Relaxed).wrapping_add(size);
        let waits = outgoing.answered.0.load(Ordering::Relaxed).wrapping_sub(left);
        if waits <= ENOUGH && waits + size > ENOUGH {
            outgoing.room.notify_waiters();
        }
    }
}

/// The place of one waiting call.
pub struct Place(Arc<CallMemory>);

impl Place {
    /// Waits until fewer bytes wait for the client than the limit (`is_full`).
    pub async fn room(&self) {
        let outgoing = &self.0.share.outgoing;
        loop {
            let mut room = pin!(outgoing.room.notified());
            // Notifications are received from here on, so that none is missed between the check and the wait.
            room.as_mut().enable();
            if !outgoing.is_full() {
                return;
            }
            room.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.share.outgoing.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::super::{Budget, Share};
    use super::*;

    fn call() -> Arc<CallMemory> {
        Arc::new(CallMemory::new(Arc::new(Share::new(Arc::new(Budget::new(0))))))
    }

    #[test]
    fn calls_wait_until_enough_has_been_taken() {
        let memory = call();
        let outgoing = &memory.share.outgoing;
        let small = memory.count(Bytes::from_static(b"abc"));
        let large = memory.count(vec![0; ENOUGH].into());
        let place = memory.hold().unwrap();
        let mut room = pin!(place.room());
        let mut has_room = || room.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        assert!(outgoing.is_full() && !has_room());
        let part = large.slice(1..);
        drop(large);
        assert!(outgoing.is_full() && !has_room());
        drop(part);
        assert!(!outgoing.is_full() && has_room());
        assert_eq!(&*small, b"abc");
    }

    #[test]
    fn the_number_of_waiting_answers_is_bounded() {
        let memory = call();
        let held: Vec<_> = std::iter::from_fn(|| memory.hold()).collect();
        assert_eq!(held.len(), MOST_HELD);
        drop(held);
        assert!(memory.hold().is_some());
    }
}

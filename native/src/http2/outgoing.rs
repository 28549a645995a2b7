//! What has been answered over one connection and not been taken by its caller yet: while that is too much, its next
//! calls wait.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::memory::CallMemory;

/// The bytes that may wait for a caller before its next calls do. One answer may be larger.
const ENOUGH: usize = 16 << 20;

/// What an answer takes beside its bytes: a stream, its trailers, its place in line.
const STREAM: usize = 1024;

/// The calls that may wait so; a caller who goes on calling does not read.
const MOST_HELD: usize = 1000;

/// Counts the bytes that the HTTP/2 library keeps for a caller. Any thread.
#[derive(Default)]
pub struct Outgoing {
    bytes: AtomicUsize,
    left: AtomicUsize,
    held: AtomicUsize,
    room: Notify,
}

impl Outgoing {
    /// The same bytes, counted until they have left or been thrown away; until then `memory` is held.
    pub fn count(self: &Arc<Self>, bytes: Bytes, memory: &Arc<CallMemory>) -> Bytes {
        self.bytes.fetch_add(STREAM + bytes.len(), Ordering::Relaxed);
        Bytes::from_owner(Counted { bytes, outgoing: self.clone(), _memory: memory.clone() })
    }

    /// What waits for the caller now, and what has ever left, in bytes.
    pub fn progress(&self) -> (usize, usize) {
        (self.bytes.load(Ordering::Relaxed), self.left.load(Ordering::Relaxed))
    }

    pub fn is_full(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > ENOUGH
    }

    /// A place to wait in, unless all are taken.
    pub fn hold(self: &Arc<Self>) -> Option<Place> {
        let place = Place(self.clone());
        (self.held.fetch_add(1, Ordering::Relaxed) < MOST_HELD).then_some(place)
    }
}

struct Counted {
    bytes: Bytes,
    outgoing: Arc<Outgoing>,
    _memory: Arc<CallMemory>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let size = STREAM + self.bytes.len();
        self.outgoing.left.fetch_add(size, Ordering::Relaxed);
        let before = self.outgoing.bytes.fetch_sub(size, Ordering::Relaxed);
        if before > ENOUGH && before - size <= ENOUGH {
            self.outgoing.room.notify_waiters();
        }
    }
}

/// A place of one call that waits.
pub struct Place(Arc<Outgoing>);

impl Place {
    /// Waits until the caller has taken enough.
    pub async fn room(&self) {
        loop {
            let mut room = pin!(self.0.room.notified());
            // From here on it sees what is notified, so that none is missed between the look and the wait.
            room.as_mut().enable();
            if !self.0.is_full() {
                return;
            }
            room.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;
    use crate::memory::{Budget, Share};

    #[test]
    fn calls_wait_until_enough_has_been_taken() {
        let outgoing = Arc::new(Outgoing::default());
        let memory = Arc::new(CallMemory::new(Arc::new(Share::new(Arc::new(Budget::new(0))))));
        let small = outgoing.count(Bytes::from_static(b"abc"), &memory);
        let large = outgoing.count(vec![0; ENOUGH].into(), &memory);
        let place = outgoing.hold().unwrap();
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
    fn so_many_may_wait() {
        let outgoing = Arc::new(Outgoing::default());
        let held: Vec<_> = std::iter::from_fn(|| outgoing.hold()).collect();
        assert_eq!(held.len(), MOST_HELD);
        drop(held);
        assert!(outgoing.hold().is_some());
    }
}

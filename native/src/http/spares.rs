//! The buffers of large bodies, which are kept for the next ones.
//!
//! A fresh buffer of 10 MB costs its connection's thread 2.5 ms of page faults, and freeing it costs another thread
//! nearly as much. A server that gets such bodies gets many of them, so a few buffers are kept, each until it has not
//! been used for some seconds.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::sleep_until;

use crate::memory::{self, NoMemory};

/// The minimum size of a large body. The sizes of the kept buffers are multiples of this, so that bodies of almost the
/// same size can use the same buffer.
const STEP: usize = 1 << 20;

/// Buffers that no body is using. May be used on any thread.
pub struct Spares {
    /// The maximum number of bytes of all buffers together.
    most: usize,
    /// How long a buffer is kept.
    idle: Duration,
    /// The buffers, in the order in which they were last used.
    kept: Mutex<Vec<Spare>>,
    added: Notify,
}

/// A buffer, and the time when it was last used.
struct Spare {
    buffer: BytesMut,
    since: Instant,
}

impl Spares {
    /// `most` is the maximum number of bytes that are kept; a buffer is freed when it has not been used for `idle`.
    pub fn new(most: usize, idle: Duration) -> Self {
        Self { most, idle, kept: Mutex::default(), added: Notify::new() }
    }

    /// A new, empty buffer for a body of this size.
    pub fn new_buffer(size: usize) -> Result<BytesMut, NoMemory> {
        memory::buffer(if size < STEP { size } else { size.next_multiple_of(STEP) })
    }

    /// A kept, empty buffer with room for a body of this size, rounded up to whole megabytes, and for at most half as
    /// much again. None if there is no such buffer, or if `may_take` returns false for its capacity.
    pub fn take(&self, size: usize, may_take: impl FnOnce(usize) -> bool) -> Option<BytesMut> {
        if size < STEP {
            return None;
        }
        let size = size.next_multiple_of(STEP);
        let mut kept = self.kept.lock();
        let place = kept.iter().rposition(|spare| (size..=size + size / 2).contains(&spare.buffer.capacity()))?;
        may_take(kept[place].buffer.capacity()).then(|| kept.remove(place).buffer)
    }

    /// Keeps a buffer whose content is no longer needed. Returns the buffers that are to be freed instead: those that
    /// have not been used for the longest time, or this one if it is too small or too large.
    pub fn keep(&self, mut buffer: BytesMut, now: Instant) -> Vec<BytesMut> {
        if !(STEP..=self.most).contains(&buffer.capacity()) {
            return vec![buffer];
        }
        buffer.clear();
        let mut kept = self.kept.lock();
        kept.push(Spare { buffer, since: now });
        let mut bytes: usize = kept.iter().map(|spare| spare.buffer.capacity()).sum();
        let freed = remove_while(&mut kept, |spare| {
            let exceeds = bytes > self.most;
            bytes -= spare.buffer.capacity();
            exceeds
        });
        self.added.notify_one();
        freed
    }

    /// Frees each buffer when it has not been used for `idle`. Runs as long as the thread whose bodies use the buffers.
    pub async fn run(&self) {
        loop {
            self.added.notified().await;
            while let Some(oldest) = self.oldest() {
                sleep_until((oldest + self.idle).into()).await;
                let freed = self.remove_unused(Instant::now());
                if !freed.is_empty() {
                    spawn_blocking(move || drop(freed)); // this takes milliseconds
                }
            }
        }
    }

    fn oldest(&self) -> Option<Instant> {
        self.kept.lock().first().map(|spare| spare.since)
    }

    fn remove_unused(&self, now: Instant) -> Vec<BytesMut> {
        remove_while(&mut self.kept.lock(), |spare| now.saturating_duration_since(spare.since) >= self.idle)
    }
}

/// Removes the buffers before the first one for which `is_removed` returns false.
fn remove_while(kept: &mut Vec<Spare>, mut is_removed: impl FnMut(&Spare) -> bool) -> Vec<BytesMut> {
    let count = kept.iter().take_while(|spare| is_removed(spare)).count();
    kept.drain(..count).map(|spare| spare.buffer).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::runtime::{Builder, Runtime};
    use tokio::task::yield_now;
    use tokio::time::timeout;

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    /// The sizes of the kept buffers, in steps.
    fn kept(spares: &Spares) -> Vec<usize> {
        sizes(spares.kept.lock().iter().map(|spare| &spare.buffer))
    }

    fn sizes<'a>(buffers: impl IntoIterator<Item = &'a BytesMut>) -> Vec<usize> {
        buffers.into_iter().map(|buffer| buffer.capacity() / STEP).collect()
    }

    fn buffer(steps: usize) -> BytesMut {
        Spares::new_buffer(steps * STEP).unwrap()
    }

    fn runtime() -> Runtime {
        Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn a_buffer_is_used_again_for_a_body_of_almost_the_same_size() {
        let spares = Spares::new(10 * STEP, IDLE);
        let mut buffer = Spares::new_buffer(3 * STEP - 7).unwrap();
        buffer.extend_from_slice(b"abc");
        let place = buffer.as_ptr();
        assert!(spares.keep(buffer, Instant::now()).is_empty());
        for size in [4 * STEP, STEP, STEP / 2, 0, 3 * STEP + 1] {
            assert!(spares.take(size, |_| true).is_none(), "{size}");
        }
        let again = spares.take(3 * STEP - 1, |_| true).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(kept(&spares).is_empty());
    }

    #[test]
    fn a_buffer_that_may_not_be_taken_stays() {
        let spares = Spares::new(10 * STEP, IDLE);
        spares.keep(buffer(3), Instant::now());
        assert!(spares.take(2 * STEP, |capacity| capacity < 3 * STEP).is_none());
        assert_eq!(kept(&spares), [3]);
    }

    #[test]
    fn the_buffers_that_were_used_last_are_kept_up_to_a_size() {
        let spares = Spares::new(5 * STEP, IDLE);
        let freed = [1, 2, 3, 6, 2].map(|steps| sizes(&spares.keep(buffer(steps), Instant::now())));
        assert_eq!(freed, [vec![], vec![], vec![1], vec![6], vec![2]]);
        assert_eq!(kept(&spares), [3, 2]);
    }

    #[test]
    fn a_buffer_that_no_large_body_can_use_is_not_kept() {
        let spares = Spares::new(5 * STEP, IDLE);
        assert_eq!(spares.keep(BytesMut::with_capacity(STEP - 1), Instant::now()).len(), 1);
        assert!(kept(&spares).is_empty());
    }

    #[test]
    fn a_buffer_is_freed_after_its_time() {
        let (spares, began) = (Spares::new(10 * STEP, IDLE), Instant::now());
        let second = Duration::from_secs(1);
        spares.keep(buffer(2), began);
        spares.keep(buffer(1), began + 3 * second);
        let used = spares.take(2 * STEP, |_| true).unwrap();
        spares.keep(used, began + 8 * second);
        assert!(spares.remove_unused(began + 12 * second).is_empty());
        assert_eq!(sizes(&spares.remove_unused(began + 13 * second)), [1]);
        assert!(spares.remove_unused(began + 17 * second).is_empty());
        assert_eq!(sizes(&spares.remove_unused(began + 18 * second)), [2]);
        assert_eq!(spares.oldest(), None);
    }

    #[test]
    fn buffers_are_freed_as_long_as_the_thread_runs() {
        let spares = Arc::new(Spares::new(10 * STEP, Duration::ZERO));
        let running = spares.clone();
        let until_empty = async {
            tokio::spawn(async move { running.run().await });
            for _ in 0..2 {
                spares.keep(buffer(2), Instant::now());
                while !kept(&spares).is_empty() {
                    yield_now().await;
                }
            }
        };
        runtime().block_on(async { timeout(Duration::from_secs(60), until_empty).await.unwrap() });
    }

    #[test]
    fn nothing_holds_the_buffers_when_the_thread_has_ended() {
        let spares = Arc::new(Spares::new(10 * STEP, IDLE));
        let (runtime, running) = (runtime(), spares.clone());
        runtime.block_on(async {
            tokio::spawn(async move { running.run().await });
            spares.keep(buffer(2), Instant::now());
            yield_now().await;
        });
        drop(runtime);
        assert_eq!((kept(&spares), Arc::strong_count(&spares)), (vec![2], 1));
    }
}

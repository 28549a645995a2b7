//! The messages from one side of a link to the other.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags, Timespec};

/// The largest message, in bytes.
pub const ROOM: usize = WORDS * WORD;

const WORDS: usize = 504;
const WORD: usize = size_of::<u64>();

/// The bit of `Direction::sent` that says that no more messages will come. The other bits count messages.
const ENDED: u32 = 1;
const STEP: u32 = 2;

/// The size of a message that was sent in another way, over the socket of the slot.
const ELSEWHERE: u32 = u32::MAX;

/// One message at a time, written by one thread of one process, and read by one thread of another.
///
/// The receiver sleeps on `sent`, which changes with each message and with the end. It first sets `sleeps`, and then
/// looks at `sent` again; the sender changes `sent`, and then looks at `sleeps`. All four accesses are sequentially
/// consistent, so at least one of the two sees what the other has written: either the sender wakes the receiver, or the
/// receiver does not sleep.
#[repr(C, align(64))]
pub struct Direction {
    sent: AtomicU32,
    /// The value of `sent`, without `ENDED`, when the receiver took the last message.
    taken: AtomicU32,
    sleeps: AtomicU32,
    /// The number of bytes in `words`.
    size: AtomicU32,
    words: [AtomicU64; WORDS],
}

/// The reason why a receiver's wait has ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Woken {
    /// A message has come.
    Message,
    /// No more messages will come.
    Ended,
    /// No message has come in time.
    TimedOut,
    /// A signal has arrived, which Python may want to see.
    Interrupted,
}

impl Direction {
    /// Sends a message; false if it is too large, or if it would overwrite the last one, which has not been taken.
    pub fn send(&self, message: &[u8]) -> bool {
        if message.len() > ROOM || !self.all_taken() {
            return false;
        }
        for (word, bytes) in self.words.iter().zip(message.chunks(WORD)) {
            let mut whole = [0; WORD];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Relaxed);
        }
        self.size.store(message.len() as u32, Relaxed);
        self.announce();
        true
    }

    /// Announces a message that has been sent over a socket instead.
    pub fn send_elsewhere(&self) {
        if self.all_taken() {
            self.size.store(ELSEWHERE, Relaxed);
        }
        self.announce();
    }

    /// Takes the next message: None if there is none, Some(None) if it is in the socket.
    pub fn take(&self) -> Option<Option<Vec<u8>>> {
        let (sent, taken) = (self.sent.load(Acquire) & !ENDED, self.taken.load(Relaxed));
        if sent == taken {
            return None;
        }
        // Messages that were sent after this one, before it was taken, were sent in another way.
        let size = self.size.swap(ELSEWHERE, Relaxed);
        let message = (size as usize <= ROOM).then(|| self.read(size as usize));
        self.taken.store(taken.wrapping_add(STEP), Release);
        Some(message)
    }

    /// Waits for a message. The thread sleeps: while the other side works, other threads of a busy machine need this
    /// core.
    pub fn wait(&self, until: Option<Instant>) -> Woken {
        let taken = self.taken.load(Relaxed);
        loop {
            self.sleeps.store(1, SeqCst);
            let sent = self.sent.load(SeqCst);
            let woken = state(sent, taken).or_else(|| self.sleep(sent, until));
            self.sleeps.store(0, Relaxed);
            if let Some(woken) = woken {
                return woken;
            }
        }
    }

    /// Whether the receiver has taken every message.
    pub fn all_taken(&self) -> bool {
        self.taken.load(Acquire) == self.sent.load(Relaxed) & !ENDED
    }

    /// Whether the messages of this direction have ended.
    pub fn has_ended(&self) -> bool {
        self.sent.load(SeqCst) & ENDED != 0
    }

    /// Ends the messages of this direction. Either side may call this, on any thread.
    pub fn end(&self) {
        self.sent.fetch_or(ENDED, SeqCst);
        let _ = futex::wake(&self.sent, Flags::empty(), u32::MAX >> 1);
    }

    fn announce(&self) {
        self.sent.fetch_add(STEP, SeqCst);
        if self.sleeps.load(SeqCst) != 0 {
            let _ = futex::wake(&self.sent, Flags::empty(), 1);
        }
    }

    /// Sleeps while `sent` has this value; None if it may have changed.
    fn sleep(&self, sent: u32, until: Option<Instant>) -> Option<Woken> {
        let left = match until {
            None => None,
            Some(until) => match until.checked_duration_since(Instant::now()) {
                None => return Some(Woken::TimedOut),
                Some(left) => Some(timespec(left)),
            },
        };
        match futex::wait(&self.sent, Flags::empty(), sent, left.as_ref()) {
            Err(Errno::TIMEDOUT) => Some(Woken::TimedOut),
            Err(Errno::INTR) => Some(Woken::Interrupted),
            _ => None,
        }
    }

    fn read(&self, size: usize) -> Vec<u8> {
        let mut message = Vec::with_capacity(size.next_multiple_of(WORD));
        for word in &self.words[..size.div_ceil(WORD)] {
            message.extend_from_slice(&word.load(Relaxed).to_ne_bytes());
        }
        message.truncate(size);
        message
    }
}

fn state(sent: u32, taken: u32) -> Option<Woken> {
    if sent & !ENDED != taken {
        Some(Woken::Message)
    } else if sent & ENDED != 0 {
        Some(Woken::Ended)
    } else {
        None
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    fn direction() -> Direction {
        Direction {
            sent: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            sleeps: AtomicU32::new(0),
            size: AtomicU32::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    fn late() -> Option<Instant> {
        Some(Instant::now())
    }

    #[test]
    fn messages_of_every_size_arrive_whole() {
        let direction = direction();
        for size in [0, 1, 7, 8, 9, 63, ROOM - 1, ROOM] {
            let message: Vec<_> = (0..size).map(|at| at as u8).collect();
            assert!(direction.send(&message));
            assert_eq!(direction.wait(late()), Woken::Message);
            assert_eq!(direction.take(), Some(Some(message)));
            assert_eq!(direction.wait(late()), Woken::TimedOut);
        }
        assert!(!direction.send(&[0; ROOM + 1]));
        assert_eq!(direction.take(), None);
    }

    #[test]
    fn messages_are_taken_in_the_order_in_which_they_were_sent() {
        let direction = direction();
        direction.send_elsewhere();
        assert!(!direction.send(b"too early"));
        direction.send_elsewhere();
        assert_eq!([direction.take(), direction.take(), direction.take()], [Some(None), Some(None), None]);
        assert!(direction.send(b"here"));
        direction.send_elsewhere();
        assert!(!direction.all_taken());
        assert_eq!([direction.take(), direction.take()], [Some(Some(b"here".to_vec())), Some(None)]);
        assert!(direction.all_taken());
    }

    #[test]
    fn the_end_comes_after_the_last_message() {
        let direction = direction();
        assert!(direction.send(b"last"));
        direction.end();
        assert_eq!(direction.wait(None), Woken::Message);
        assert_eq!(direction.take(), Some(Some(b"last".to_vec())));
        assert_eq!(direction.wait(None), Woken::Ended);
    }

    #[test]
    fn the_count_wraps() {
        let direction = direction();
        for _ in 0..3 {
            direction.sent.store(STEP.wrapping_neg(), Relaxed);
            direction.taken.store(STEP.wrapping_neg(), Relaxed);
            assert!(direction.send(b"one"));
            assert_eq!(direction.sent.load(Relaxed) & ENDED, 0);
            assert_eq!(direction.take(), Some(Some(b"one".to_vec())));
            assert_eq!(direction.take(), None);
        }
    }

    /// Both sides sleep and wake each other all the time; a lost wake would stop them.
    #[test]
    fn no_wake_is_lost() {
        let (there, back) = (direction(), direction());
        let receive = |direction: &Direction| {
            assert_eq!(direction.wait(None), Woken::Message);
            direction.take().unwrap().unwrap()
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..5_000 {
                    let message = receive(&there);
                    assert!(back.send(&message));
                }
            });
            for number in 0..5_000_u32 {
                assert!(there.send(&number.to_ne_bytes()));
                assert_eq!(receive(&back), number.to_ne_bytes());
            }
        });
    }

    #[test]
    fn a_sleeper_is_woken_by_the_end() {
        let direction = direction();
        thread::scope(|scope| {
            let sleeper = scope.spawn(|| direction.wait(None));
            while direction.sleeps.load(SeqCst) == 0 {
                thread::yield_now();
            }
            direction.end();
            assert_eq!(sleeper.join().unwrap(), Woken::Ended);
        });
    }
}

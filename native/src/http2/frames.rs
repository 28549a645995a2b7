//! Observes the frames of a connection: finds where each begins, and counts some of them.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The bytes that a client sends before its first frame.
pub const PREFACE: usize = 24;

/// The bytes of a frame's head.
const HEAD: usize = 9;

/// The frames that have passed since the last check, and whether to tell the client that it sends too many pings.
#[derive(Default)]
pub struct FrameStats {
    pings: AtomicU32,
    answered: AtomicBool,
    too_many_pings: AtomicBool,
}

impl FrameStats {
    /// Records that a ping of the client has been read.
    pub fn ping_read(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that headers or data have been written.
    pub fn answer_written(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// The number of pings since the last call, and whether headers or data have been written since there last were
    /// any.
    pub fn take(&self) -> (u32, bool) {
        let pings = self.pings.load(Ordering::Relaxed);
        if pings == 0 {
            return (0, false); // the flag is reset with the next ping
        }
        (self.pings.swap(0, Ordering::Relaxed), self.answered.swap(false, Ordering::Relaxed))
    }

    /// Makes the next read tell the client that it sends too many pings, and end the connection.
    pub fn end_for_pings(&self) {
        self.too_many_pings.store(true, Ordering::Relaxed);
    }

    /// Whether the connection ends because of too many pings.
    pub fn too_many_pings(&self) -> bool {
        self.too_many_pings.load(Ordering::Relaxed)
    }
}

/// The position within the frames of one direction.
pub struct Frames {
    head: [u8; HEAD],
    have: usize,
    skip: usize,
}

impl Frames {
    pub fn after(skip: usize) -> Self {
        Self { head: [0; HEAD], have: 0, skip }
    }

    pub fn within_one(&self) -> bool {
        self.have + self.skip > 0
    }

    /// Calls `see` with the kind, the flags and the stream of each frame that begins in some bytes.
    pub fn pass(&mut self, mut bytes: &[u8], mut see: impl FnMut(u8, u8, u32)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return;
            }
            let taken = (HEAD - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have == HEAD {
                let [high, middle, low, kind, flags, stream @ ..] = self.head;
                self.have = 0;
                self.skip = u32::from_be_bytes([0, high, middle, low]) as usize;
                see(kind, flags, u32::from_be_bytes(stream) & (u32::MAX >> 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let bytes = [&[7; 24][..], &[0, 0, 3, 0, 1, 0, 0, 0, 5, 1, 2, 3], &[0, 0, 0, 4, 0, 128, 0, 0, 0]].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::after(PREFACE);
            let mut seen = Vec::new();
            for part in bytes.chunks(size) {
                frames.pass(part, |kind, flags, stream| seen.push((kind, flags, stream)));
            }
            assert_eq!(seen, [(0, 1, 5), (4, 0, 0)]);
            assert!(!frames.within_one());
        }
    }
}

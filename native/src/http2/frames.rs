//! Observes the frames of a connection: finds where each begins, and counts some of them.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// The number of bytes that a client sends before its first frame.
pub const PREFACE: usize = 24;

/// The number of bytes of a frame's head.
pub const HEAD: usize = 9;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PRIORITY: u8 = 32;

/// The newest stream of the client, the frames that have passed since the last check, and whether to tell the client
/// that it sends too many pings.
#[derive(Default)]
pub struct FrameStats {
    last_stream: AtomicU32,
    pings: AtomicU32,
    answered: AtomicBool,
    too_many_pings: AtomicBool,
}

impl FrameStats {
    /// Records that the head of a stream has been read. Must be called on the connection's thread.
    pub fn head_read(&self, stream: u32) {
        if stream > self.last_stream() {
            self.last_stream.store(stream, Ordering::Relaxed);
        }
    }

    /// The highest number of a stream whose head has been read; 0 if there is none.
    pub fn last_stream(&self) -> u32 {
        self.last_stream.load(Ordering::Relaxed)
    }

    /// Records that a ping of the client has been read.
    pub fn ping_read(&self) {
        self.pings.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that headers or data have been written.
    pub fn answer_written(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Returns and resets the number of pings that have been read, and whether headers or data have been written since
    /// the last call that returned pings.
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

/// A frame whose head has been read or written completely.
pub struct Seen {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    /// The position of the payload in the bytes that contain the end of the head. The payload may end after these
    /// bytes.
    pub payload: Range<usize>,
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

    /// Calls `see` with each frame whose head ends in some bytes.
    pub fn pass(&mut self, all: &[u8], mut see: impl FnMut(Seen)) {
        let mut bytes = all;
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
                let (stream, begin) = (u32::from_be_bytes(stream) & (u32::MAX >> 1), all.len() - bytes.len());
                see(Seen { kind, flags, stream, payload: begin..begin + self.skip });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_found_where_its_head_ends() {
        let (mut frames, mut found) = (Frames::after(0), Vec::new());
        for part in [&[0, 0, 3, 0][..], &[1, 0, 0, 0, 5, 1], &[2, 3, 0, 0, 0, 4, 0, 128, 0, 0, 0]] {
            frames.pass(part, |own| found.push(own.payload));
        }
        assert_eq!(found, [5..8, 11..11]);
    }

    #[test]
    fn frames_are_seen_however_they_are_cut() {
        let bytes = [&[7; 24][..], &[0, 0, 3, 0, 1, 0, 0, 0, 5, 1, 2, 3], &[0, 0, 0, 4, 0, 128, 0, 0, 0]].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::after(PREFACE);
            let mut seen = Vec::new();
            for part in bytes.chunks(size) {
                frames.pass(part, |own| seen.push((own.kind, own.flags, own.stream, own.payload.len())));
            }
            assert_eq!(seen, [(0, 1, 5, 3), (4, 0, 0, 0)]);
            assert!(!frames.within_one());
        }
    }
}

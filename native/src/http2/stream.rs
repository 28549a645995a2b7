//! The bytes of a connection, in the clear or secured; frames are seen as they pass, since h2 does not tell of all.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::http2::read_ahead::Ahead;
use crate::http2::socket::{Socket, either};
use crate::http2::unix_authority::Mender;

const PREFACE: usize = 24;
const HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// One end of a connection.
pub enum Stream {
    Plain(Socket),
    Secured(Box<TlsStream<Socket>>),
}

impl Stream {
    fn is_unix(&self) -> bool {
        let socket = match self {
            Self::Plain(socket) => socket,
            Self::Secured(stream) => stream.get_ref().0,
        };
        matches!(socket, Socket::Unix(_))
    }
}

/// What has passed since somebody looked, and what is to be done.
#[derive(Default)]
pub struct Signs {
    pings: AtomicU32,
    answered: AtomicBool,
    calm: AtomicBool,
}

impl Signs {
    /// How many pings have come since the last time, and whether headers or data have left since there were any.
    pub fn take(&self) -> (u32, bool) {
        let pings = self.pings.load(Ordering::Relaxed);
        if pings == 0 {
            return (0, false); // what has left is forgotten when it matters
        }
        (self.pings.swap(0, Ordering::Relaxed), self.answered.swap(false, Ordering::Relaxed))
    }

    /// The next read says to the caller that its pings are too many, and is the last.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }
}

/// A stream whose frames are seen. HTTP/2 alone sees what is wrong with them.
pub struct Watched {
    stream: Stream,
    ahead: Ahead,
    inbound: Frames,
    outbound: Frames,
    last_stream: u32,
    signs: Arc<Signs>,
    mender: Option<Mender>,
}

impl Watched {
    pub fn new(stream: Stream, signs: Arc<Signs>) -> Self {
        let (inbound, outbound) = (Frames::after(PREFACE), Frames::after(0));
        let mender = stream.is_unix().then(Mender::default);
        Self { stream, ahead: Ahead::default(), inbound, outbound, last_stream: 0, signs, mender }
    }

    fn came(&mut self, bytes: &mut [u8]) {
        if let Some(mender) = &mut self.mender {
            mender.mend(bytes);
        }
        let (signs, last_stream) = (&self.signs, &mut self.last_stream);
        self.inbound.pass(bytes, |kind, flags, stream| match kind {
            PING if flags & ACK == 0 => {
                signs.pings.fetch_add(1, Ordering::Relaxed);
            }
            HEADERS => *last_stream = stream.max(*last_stream),
            _ => {}
        });
    }

    fn left(&mut self, bytes: &[u8]) {
        let signs = &self.signs;
        self.outbound.pass(bytes, |kind, _, _| {
            if matches!(kind, DATA | HEADERS) {
                signs.answered.store(true, Ordering::Relaxed);
            }
        });
    }

    /// Says GOAWAY with the words that gRPC's clients know, where it fits: a client slows down, and connects again.
    fn say_calm(&mut self, context: &mut Context<'_>) {
        if self.outbound.within_one() {
            return;
        }
        let mut frame = vec![0, 0, 8 + TOO_MANY_PINGS.len() as u8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(TOO_MANY_PINGS);
        // A caller who reads nothing misses it.
        let _ = Pin::new(&mut self.stream).poll_write(context, &frame);
        let _ = Pin::new(&mut self.stream).poll_flush(context);
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.signs.calm.load(Ordering::Relaxed) {
            self.say_calm(context);
            return Poll::Ready(Ok(()));
        }
        let (before, this) = (into.filled().len(), &mut *self);
        ready!(this.ahead.poll_read(Pin::new(&mut this.stream), context, into))?;
        self.came(&mut into.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.left(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, pieces))?;
        let mut left = count;
        for piece in pieces {
            let passed = left.min(piece.len());
            self.left(&piece[..passed]);
            left -= passed;
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Plain | Secured), stream => Pin::new(stream).poll_read(context, into))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self::(Plain | Secured), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self::(Plain | Secured), stream => Pin::new(stream).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, Self::(Plain | Secured), stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Plain | Secured), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Plain | Secured), stream => Pin::new(stream).poll_shutdown(context))
    }
}

/// Where the bytes of one direction are in their frames.
pub struct Frames {
    head: [u8; HEAD],
    have: usize,
    skip: usize,
}

impl Frames {
    pub fn after(skip: usize) -> Self {
        Self { head: [0; HEAD], have: 0, skip }
    }

    fn within_one(&self) -> bool {
        self.have + self.skip > 0
    }

    /// Tells `see` of the kind, the flags and the stream of each frame that begins in some bytes.
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

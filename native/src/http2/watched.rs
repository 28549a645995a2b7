//! A connection whose frames are observed, since h2 does not report all of them.
//!
//! gRPC's servers end a connection whose client pings too often (`grpc.http2.max_ping_strikes`), and restart the count
//! when they send headers or data. h2 answers pings itself, and reports neither pings nor sent frames, so the frames
//! are counted here.
//!
//! The cost: less than can be measured against 8 us of CPU per small Predict (without it, 14 alternating runs gave a
//! ratio of 1.05 in the wrong direction, on two busy cores, 2026-11-27).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Authority;
use super::frames::{FrameStats, Frames, PREFACE};
use super::read_ahead::ReadAhead;
use super::stall::Stall;
use super::stream::Stream;
use super::turn::AfterPause;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// A stream whose frames are observed. Only h2 checks them for errors.
pub struct Watched {
    stream: Stream,
    read_ahead: ReadAhead,
    inbound: Frames,
    outbound: Frames,
    last_stream: u32,
    /// Whether the frames of a head have begun, so that more of them must follow.
    in_head: bool,
    reads: Stall,
    stats: Arc<FrameStats>,
    authority: Option<Authority>,
}

impl Watched {
    /// `stall` is how long a client may pause in the middle of a frame or a head; `after_pause` is as in `Turn::new`.
    pub fn new(stream: Stream, stats: Arc<FrameStats>, stall: Option<Duration>, after_pause: AfterPause) -> Self {
        Self {
            stream,
            read_ahead: ReadAhead::new(after_pause),
            inbound: Frames::after(PREFACE),
            outbound: Frames::after(0),
            last_stream: 0,
            in_head: false,
            reads: Stall::new(stall),
            stats,
            authority: Some(Authority::default()),
        }
    }

    fn on_read(&mut self, bytes: &mut [u8]) {
        if let Some(authority) = &mut self.authority {
            authority.rewrite(bytes);
            if authority.is_done() {
                self.authority = None;
            }
        }
        let (stats, last_stream, in_head) = (&self.stats, &mut self.last_stream, &mut self.in_head);
        self.inbound.pass(bytes, |kind, flags, stream| match kind {
            PING if flags & ACK == 0 => stats.ping_read(),
            HEADERS => {
                *last_stream = stream.max(*last_stream);
                *in_head = flags & END_HEADERS == 0;
            }
            CONTINUATION => *in_head = flags & END_HEADERS == 0,
            _ => {}
        });
    }

    fn on_write(&mut self, bytes: &[u8]) {
        let stats = &self.stats;
        self.outbound.pass(bytes, |kind, _, _| {
            if matches!(kind, DATA | HEADERS) {
                stats.answer_written();
            }
        });
    }

    /// Sends GOAWAY, unless a frame is being written, with the text that gRPC's clients know: the client then slows
    /// down, and connects again.
    fn send_too_many_pings(&mut self, context: &mut Context<'_>) {
        if self.outbound.within_one() {
            return;
        }
        let mut frame = vec![0, 0, 8 + TOO_MANY_PINGS.len() as u8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(TOO_MANY_PINGS);
        // If the client reads nothing, the frame is lost.
        let _ = Pin::new(&mut self.stream).poll_write(context, &frame);
        let _ = Pin::new(&mut self.stream).poll_flush(context);
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stats.too_many_pings() {
            self.send_too_many_pings(context);
            return Poll::Ready(Ok(()));
        }
        let (before, this) = (into.filled().len(), &mut *self);
        let read = this.read_ahead.poll_read(Pin::new(&mut this.stream), context, into);
        let midway = this.in_head || this.inbound.within_one();
        ready!(this.reads.timed(context, midway, read))?;
        self.on_read(&mut into.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.on_write(&bytes[..count]);
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
            self.on_write(&piece[..passed]);
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

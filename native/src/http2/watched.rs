//! A connection whose frames are observed, since h2 does not report all of them.
//!
//! gRPC's servers end a connection whose client pings too often (`grpc.http2.max_ping_strikes`), and restart the count
//! when they send headers or data. h2 answers pings itself, and reports neither pings nor sent frames, so the frames
//! are counted here.
//!
//! The cost cannot be measured beside the 8 us of CPU of a small Predict: in 14 alternating runs, calls without the
//! counting were even slower, by a factor of 1.05 (on two busy cores, 2026-11-27).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::authority::Authority;
use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, FrameStats, Frames, GOAWAY, HEADERS, PING, PREFACE, SETTINGS, WINDOW_UPDATE,
};
use super::lone::{Bypass, Given};
use super::read_ahead::ReadAhead;
use super::stall::Stall;
use super::stream::Stream;
use super::turn::AfterPause;

const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";

/// A stream whose frames are observed. Only h2 checks them for errors.
pub struct Watched {
    stream: Stream,
    read_ahead: ReadAhead,
    inbound: Frames,
    outbound: Frames,
    /// Whether the frames of a head have begun, so that more of them must follow.
    in_head: bool,
    reads: Stall,
    stats: Arc<FrameStats>,
    authority: Option<Authority>,
    bypass: Option<Arc<Bypass>>,
}

impl Watched {
    /// `stall` is how long a client may pause in the middle of a frame or a head; `after_pause` is as in `Turn::new`.
    pub fn new(stream: Stream, stats: Arc<FrameStats>, stall: Option<Duration>, after_pause: AfterPause) -> Self {
        Self {
            stream,
            read_ahead: ReadAhead::new(after_pause),
            inbound: Frames::after(PREFACE),
            outbound: Frames::after(0),
            in_head: false,
            reads: Stall::new(stall),
            stats,
            authority: Some(Authority::default()),
            bypass: None,
        }
    }

    /// Lets lone calls bypass h2.
    pub fn with_bypass(self, bypass: Option<Arc<Bypass>>) -> Self {
        Self { bypass, ..self }
    }

    fn on_read(&mut self, bytes: &mut [u8]) {
        let between = !self.is_midway();
        if let Some(authority) = &mut self.authority {
            authority.rewrite(bytes);
            if authority.is_done() {
                self.authority = None;
            }
        }
        let (stats, in_head, mut lone) = (&self.stats, &mut self.in_head, self.bypass.as_ref().map(|own| own.state()));
        let keeps_table = lone.as_mut().is_some_and(|own| own.passes(bytes, between));
        let mut windows = SmallVec::<[_; 2]>::new();
        self.inbound.pass(bytes, |frame| match frame.kind {
            PING if frame.flags & ACK == 0 => stats.ping_read(),
            HEADERS | CONTINUATION => {
                if frame.kind == HEADERS {
                    stats.head_read(frame.stream);
                }
                if let Some(lone) = lone.as_mut().filter(|_| !keeps_table) {
                    lone.head_passes();
                }
                *in_head = frame.flags & END_HEADERS == 0;
            }
            SETTINGS if frame.flags & ACK == 0 => {
                if let Some(lone) = &mut lone {
                    lone.settings(bytes.get(frame.payload));
                }
            }
            WINDOW_UPDATE if frame.stream == 0 => windows.push(frame.payload),
            _ => {}
        });
        if let Some(lone) = &mut lone {
            for payload in windows {
                lone.window_enlarged(bytes.get_mut(payload).unwrap_or_default());
            }
        }
    }

    /// Whether the client must send the rest of a frame or of a head.
    fn is_midway(&self) -> bool {
        self.in_head || self.inbound.within_one()
    }

    /// Observes bytes that have been written. Returns whether h2 must read because of that.
    fn on_write(&mut self, bytes: &[u8]) -> bool {
        let (stats, mut sent) = (&self.stats, 0);
        self.outbound.pass(bytes, |frame| {
            if matches!(frame.kind, DATA | HEADERS) {
                stats.answer_written();
            }
            if frame.kind == DATA {
                sent += frame.payload.len() as u32;
            }
        });
        match self.bypass.as_ref() {
            Some(bypass) if sent > 0 => bypass.state().windows.h2_sent(sent),
            _ => false,
        }
    }

    /// Remembers whether h2 may be in the middle of a frame that it writes, and wakes its task if it must read.
    fn after_write(&mut self, context: &Context<'_>, waits: bool, must_read: bool) {
        if let Some(bypass) = &self.bypass {
            bypass.state().blocked = waits || self.outbound.within_one();
        }
        if must_read {
            context.waker().wake_by_ref();
        }
    }

    /// Writes what is left of an answer that has bypassed h2.
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.bypass {
            Some(bypass) => bypass.poll_unsent(Pin::new(&mut self.stream), context),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Sends GOAWAY, unless a frame is being written, with the text that gRPC's clients know: the client then slows
    /// down, and connects again.
    fn send_too_many_pings(&mut self, context: &mut Context<'_>) {
        if self.outbound.within_one() || self.poll_unsent(context).is_pending() {
            return;
        }
        let mut frame = vec![0, 0, 8 + TOO_MANY_PINGS.len() as u8, GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.stats.last_stream().to_be_bytes());
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
        let midway = this.is_midway();
        let read = match this.bypass.as_ref().map_or(Given::Socket, |own| own.give(into, !midway)) {
            Given::Bytes => Poll::Ready(Ok(())),
            Given::Frame => return Poll::Ready(Ok(())),
            Given::Nothing => return Poll::Pending,
            Given::Socket => this.read_ahead.poll_read(Pin::new(&mut this.stream), context, into),
        };
        if let Some(bypass) = this.bypass.as_ref().filter(|_| read.is_pending()) {
            bypass.state().reads = midway || this.authority.is_some() || !this.read_ahead.is_empty();
        }
        ready!(this.reads.timed(context, midway, read))?;
        self.on_read(&mut into.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(context))?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        let must_read = matches!(written, Poll::Ready(Ok(count)) if self.on_write(&bytes[..count]));
        self.after_write(context, written.is_pending(), must_read);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_unsent(context))?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        let (mut left, mut must_read) = (if let Poll::Ready(Ok(count)) = written { count } else { 0 }, false);
        for piece in pieces {
            let passed = left.min(piece.len());
            must_read |= self.on_write(&piece[..passed]);
            left -= passed;
        }
        self.after_write(context, written.is_pending(), must_read);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

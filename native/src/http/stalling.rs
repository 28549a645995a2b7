//! Breaks a connection whose client has read nothing of its answer, or sent nothing more of a head, for too long.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::progress::Progress;
use crate::http2::Stall;

/// A stream with a time limit for writes, and for reads in the middle of an HTTP/1 head.
pub struct Stalling<S> {
    stream: S,
    progress: Option<Progress>,
    reads: Stall,
    writes: Stall,
}

impl<S: AsyncWrite + Unpin> Stalling<S> {
    /// `progress` is HTTP/1's; None for a protocol whose heads are checked elsewhere.
    pub fn new(stream: S, limit: Option<Duration>, progress: Option<Progress>) -> Self {
        Self { stream, progress, reads: Stall::new(limit), writes: Stall::new(limit) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, this) = (into.filled().len(), &mut *self);
        let read = Pin::new(&mut this.stream).poll_read(context, into);
        let Some(progress) = &this.progress else { return read };
        if into.filled().len() > before {
            progress.came();
        }
        this.reads.timed(context, progress.in_head(), read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Stalling<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.writes.timed(context, true, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.writes.timed(context, true, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.writes.timed(context, true, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

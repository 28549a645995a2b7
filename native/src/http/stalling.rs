//! Ends a connection whose client stops reading an answer, or stops in the middle of a request's head, for too long.
//! Also lets the other connections of a thread run while one of them sends a large body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::progress::Progress;
use crate::http2::{AfterPause, Stall, Turn};

/// The maximum number of bytes that a connection reads before the others of its thread may run: a tenth of
/// a millisecond.
const TURN: usize = 128 << 10;

/// A stream with a time limit for writes, and for reads in the middle of an HTTP/1 head.
pub struct Stalling<S> {
    stream: S,
    progress: Option<Progress>,
    reads: Stall,
    writes: Stall,
    turn: Turn<TURN>,
}

impl<S: AsyncWrite + Unpin> Stalling<S> {
    /// `progress` is HTTP/1's; None for a protocol whose heads are checked elsewhere. `after_pause` is as in
    /// `Turn::new`.
    pub fn new(stream: S, limit: Option<Duration>, progress: Option<Progress>, after_pause: AfterPause) -> Self {
        let turn = Turn::new(after_pause);
        Self { stream, progress, reads: Stall::new(limit), writes: Stall::new(limit), turn }
    }
}

impl<S: AsyncRead + Unpin> Stalling<S> {
    /// Reads at most the bytes that are left of the connection's turn.
    fn read_in_turn(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (left, before) = (ready!(self.turn.poll(context)), into.filled().len());
        let stream = Pin::new(&mut self.stream);
        let read = if into.remaining() <= left {
            stream.poll_read(context, into)
        } else {
            // The buffer must be cleared first, but only large bodies have buffers of this size.
            let mut part = ReadBuf::new(into.initialize_unfilled_to(left));
            let read = stream.poll_read(context, &mut part);
            let count = part.filled().len();
            into.advance(count);
            read
        };
        self.turn.count(&read, into.filled().len() - before);
        read
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Stalling<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, this) = (into.filled().len(), &mut *self);
        let read = this.read_in_turn(context, into);
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn other_connections_have_their_turn_while_a_large_body_arrives() {
        const SIZE: usize = 10 * TURN;
        let (mut client, server) = duplex(SIZE);
        client.write_all(&vec![7; SIZE]).await.unwrap();
        let mut stream = Stalling::new(server, None, None, Arc::new(|| ()));
        let (mut all, mut pauses, mut most) = (Vec::new(), 0, 0);
        while all.len() < SIZE {
            let mut buffer = vec![0; SIZE];
            let mut into = ReadBuf::new(&mut buffer);
            let paused =
                poll_fn(|context| Poll::Ready(Pin::new(&mut stream).poll_read(context, &mut into).is_pending()));
            if paused.await {
                pauses += 1;
                tokio::task::yield_now().await;
            }
            most = most.max(into.filled().len());
            all.extend_from_slice(into.filled());
        }
        assert_eq!((all.len(), all.iter().all(|byte| *byte == 7)), (SIZE, true));
        assert!(most <= TURN && pauses >= 9, "{most} bytes at once, {pauses} pauses");
    }

    #[tokio::test]
    async fn a_connection_goes_on_after_its_turn() {
        let (mut client, server) = duplex(4 * TURN);
        client.write_all(&vec![1; 4 * TURN]).await.unwrap();
        drop(client);
        let mut all = Vec::new();
        Stalling::new(server, None, None, Arc::new(|| ())).read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len(), 4 * TURN);
    }
}

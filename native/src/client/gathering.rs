//! A socket on which small requests are sent together, in one write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket, with or without TLS, that reports only after the HTTP/2 handshake that it supports vectored writes.
///
/// h2 copies short payloads into its buffer, from which it writes them together with other frames: payloads of up to
/// 256 bytes if the socket supports vectored writes during the handshake, otherwise of up to 1,024 bytes. A longer
/// payload takes a write of its own, which costs more than copying 1,024 bytes. Before each write, h2 asks again
/// whether the socket supports vectored writes; the answer is then yes, so h2 writes a long payload together with its
/// head.
pub struct Gathering<S> {
    socket: S,
    has_shaken_hands: Arc<AtomicBool>,
}

impl<S> Gathering<S> {
    /// Returns the socket, and the flag that must be set after the handshake.
    pub fn new(socket: S) -> (Self, Arc<AtomicBool>) {
        let has_shaken_hands = Arc::new(AtomicBool::new(false));
        (Self { socket, has_shaken_hands: has_shaken_hands.clone() }, has_shaken_hands)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.has_shaken_hands.load(Ordering::Relaxed)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

//! A socket on which small requests are sent together, in one write, and which notices a server without HTTP/2.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A socket, with or without TLS. It reports support for vectored writes only after the HTTP/2 handshake.
///
/// h2 copies short payloads into its buffer, from which it writes them together with other frames: payloads of up to
/// 256 bytes if the socket supports vectored writes during the handshake, otherwise of up to 1,024 bytes. A longer
/// payload takes a write of its own, which costs more than copying 1,024 bytes. Before each write, h2 asks again
/// whether the socket supports vectored writes; the answer is then yes, so h2 writes a long payload together with its
/// head.
pub struct Gathering<S> {
    socket: S,
    marks: Arc<Marks>,
}

/// What is known of an HTTP/2 connection.
#[derive(Debug, Default)]
pub struct Marks {
    /// Whether the client has sent its part of the handshake.
    pub has_shaken_hands: AtomicBool,
    /// Whether the server has answered in HTTP/2: with a frame of settings, which must be its first.
    pub has_answered: AtomicBool,
}

/// Where a frame has its type, and the type of a frame of settings.
const TYPE: usize = 3;
const SETTINGS: u8 = 4;

impl<S> Gathering<S> {
    /// Returns the socket, and its marks; the caller must set `has_shaken_hands` after the handshake.
    pub fn new(socket: S) -> (Self, Arc<Marks>) {
        let marks = Arc::new(Marks::default());
        (Self { socket, marks: marks.clone() }, marks)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if !self.marks.has_answered.load(Ordering::Relaxed) && buffer.filled()[before..].get(TYPE) == Some(&SETTINGS) {
            self.marks.has_answered.store(true, Ordering::Relaxed);
        }
        read
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
        self.marks.has_shaken_hands.load(Ordering::Relaxed)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

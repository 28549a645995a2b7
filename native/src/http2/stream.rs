//! The bytes of a connection, with or without TLS.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::socket::{SharedTcp, Socket, either};
use super::tls::HTTP2;

/// How long to wait before peeking again if only one byte has arrived, which does not tell the protocol.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
const LOOKS: u32 = 1_000;

/// One end of a connection.
pub enum Stream {
    Plain(Socket),
    Secured(Box<TlsStream<Socket>>),
}

impl Stream {
    /// The client's certificate in DER; None if the client has sent none.
    pub fn certificate(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Secured(stream) => stream.get_ref().1.peer_certificates()?.first().map(|own| &**own),
        }
    }
}

impl Stream {
    /// The TCP connection, if it is one without TLS.
    pub fn plain_tcp(&self) -> Option<SharedTcp> {
        match self {
            Self::Plain(Socket::Tcp(socket)) => Some(socket.clone()),
            _ => None,
        }
    }

    /// Whether the client speaks HTTP/2, if it may also speak HTTP/1. Waits for the first bytes and inspects them,
    /// unless TLS has negotiated the protocol.
    pub async fn speaks_http2(&self) -> bool {
        match self {
            Self::Plain(Socket::Tcp(socket)) => begins_http2(socket.tcp()).await.unwrap_or(false),
            Self::Plain(Socket::Unix(_)) => false,
            Self::Secured(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }
}

/// Whether the client speaks HTTP/2, which begins with `PRI * HTTP/2.0`; no method of HTTP/1 clients begins with `PR`.
async fn begins_http2(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 2];
    for _ in 0..LOOKS {
        match socket.peek(&mut first).await? {
            1 if first[0] == b'P' => tokio::time::sleep(LOOK_AGAIN).await,
            count => return Ok(count == 2 && first == *b"PR"),
        }
    }
    Ok(false) // HTTP/2 clients send more than one byte at a time
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

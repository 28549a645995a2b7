//! Where connections come from: TCP and UNIX sockets.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const BACKLOG: i32 = 1024;

/// What HTTP/2 is spoken over.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// A socket that listens, not yet on any thread.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Listens at a host and port, or at `unix:` and a path; an old socket there is replaced, as gRPC does.
    pub fn new(address: &str) -> io::Result<Self> {
        match address.strip_prefix("unix:") {
            Some(path) => unix(Path::new(path)).map(Self::Unix),
            None => tcp(address).map(Self::Tcp),
        }
    }

    /// The TCP port, 0 where there is none.
    pub fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.port()),
            Self::Unix(_) => Ok(0),
        }
    }

    /// The same, on the runtime of this thread.
    pub fn into_async(self) -> io::Result<AsyncListener> {
        match self {
            Self::Tcp(listener) => TcpListener::from_std(listener).map(AsyncListener::Tcp),
            Self::Unix(listener) => UnixListener::from_std(listener).map(AsyncListener::Unix),
        }
    }
}

fn tcp(address: &str) -> io::Result<std::net::TcpListener> {
    let found: Option<SocketAddr> = address.to_socket_addrs()?.next();
    let address = found.ok_or_else(|| io::Error::new(ErrorKind::AddrNotAvailable, "no such address"))?;
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    listening(socket, &address.into()).map(Into::into)
}

fn unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    if path.symlink_metadata().is_ok_and(|old| old.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    listening(socket, &SockAddr::unix(path)?).map(Into::into)
}

fn listening(socket: socket2::Socket, address: &SockAddr) -> io::Result<socket2::Socket> {
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket that listens.
pub enum AsyncListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection, and for TCP its caller's address as gRPC writes it.
pub enum Accepted {
    Tcp(TcpStream, Arc<str>),
    Unix(UnixStream),
}

impl AsyncListener {
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
                Ok(Accepted::Tcp(socket, format!("{family}:{peer}").into()))
            }
            Self::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

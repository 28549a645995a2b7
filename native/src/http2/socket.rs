//! Listening TCP and UNIX sockets, and the connections that they accept.

use std::fs;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use socket2::{Domain, Protocol, SockAddr, Socket as Raw, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

const BACKLOG: i32 = 1024;

/// An address that is being listened on.
pub enum Address {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, SocketFile),
}

impl Address {
    /// Binds a host and port that are not in use, or `unix:` and a path.
    pub fn take(address: &str) -> io::Result<Self> {
        match address.strip_prefix("unix:") {
            Some(path) => Self::unix(Path::new(path)),
            None => Self::tcp(address),
        }
    }

    fn tcp(address: &str) -> io::Result<Self> {
        let found: Option<SocketAddr> = address.to_socket_addrs()?.next();
        let address = found.ok_or_else(|| io::Error::new(ErrorKind::AddrNotAvailable, "no such address"))?;
        if address.ip().is_unspecified() {
            // As in gRPC, the wildcard address of one family means both families if the machine has both.
            match Self::on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), address.port())) {
                Err(error) if address.is_ipv4() && error.kind() != ErrorKind::AddrInUse => {}
                taken => return taken,
            }
        }
        Self::on(address)
    }

    fn on(address: SocketAddr) -> io::Result<Self> {
        let socket = Raw::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        Ok(Self::Tcp(listening(socket, &address.into())?.into()))
    }

    /// Listens on a UNIX socket. An existing socket is replaced, as gRPC does; any other kind of file is an error.
    fn unix(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket()) {
            fs::remove_file(path)?;
        }
        let socket = Raw::new(Domain::UNIX, Type::STREAM, None)?;
        let listener = listening(socket, &SockAddr::unix(path)?)?;
        Ok(Self::Unix(listener.into(), SocketFile::of(path)?))
    }

    /// The TCP port; 0 if there is none.
    pub fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.port()),
            Self::Unix(..) => Ok(0),
        }
    }

    /// Makes the address ready to accept connections in the current runtime.
    pub fn listen(self) -> io::Result<Listener> {
        match self {
            Self::Tcp(listener) => Ok(Listener::Tcp(TcpListener::from_std(listener)?)),
            Self::Unix(listener, file) => Ok(Listener::Unix(UnixListener::from_std(listener)?, file)),
        }
    }
}

fn listening(socket: Raw, address: &SockAddr) -> io::Result<Raw> {
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The file of a UNIX socket. Dropping this removes the file, unless it now belongs to another socket.
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            // If this fails, the next server replaces the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Accepts connections.
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "only its drop has a purpose")] SocketFile),
}

impl Listener {
    /// Waits for the next connection, which is not bound to any runtime.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                // If this fails, small answers are merely delayed.
                let _ = socket.set_nodelay(true);
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
                Ok(Accepted { socket: socket.into_std()?.into(), tcp: true, peer: format!("{family}:{peer}").into() })
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                Ok(Accepted { socket: socket.into_std()?.into(), tcp: false, peer: "unix:".into() })
            }
        }
    }
}

/// A connection on its way to the thread that will own it.
pub struct Accepted {
    socket: Raw,
    tcp: bool,
    /// The client's address in gRPC's format.
    pub peer: Arc<str>,
}

impl Accepted {
    /// Binds the connection to the current runtime.
    pub fn enter(self) -> io::Result<Socket> {
        if self.tcp {
            Ok(Socket::Tcp(SharedTcp::new(TcpStream::from_std(self.socket.into())?)))
        } else {
            Ok(Socket::Unix(UnixStream::from_std(self.socket.into())?))
        }
    }
}

/// One end of a TCP connection, which h2 and the lone calls of the connection read and write. tokio's own `poll_read`
/// and `poll_write` need it exclusively.
#[derive(Clone)]
pub struct SharedTcp(Arc<TcpStream>);

impl SharedTcp {
    pub fn new(socket: TcpStream) -> Self {
        Self(Arc::new(socket))
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.0
    }

    /// Must be called after a read that returned less than it could have: the next read then waits for the kernel's
    /// next event, which saves a read that would find nothing.
    pub fn has_read_all(&self) {
        self.waits_for(Interest::READABLE);
    }

    fn waits_for(&self, interest: Interest) {
        let _ = self.0.try_io(interest, || io::Result::<()>::Err(ErrorKind::WouldBlock.into()));
    }

    fn write(
        &self,
        context: &mut Context<'_>,
        size: usize,
        write: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match write() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(count) => {
                    if count > 0 && count < size {
                        self.waits_for(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(count));
                }
                error => return Poll::Ready(error),
            }
        }
    }
}

impl AsyncRead for SharedTcp {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            let room = into.remaining();
            match self.0.try_read_buf(into) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(count) => {
                    if count > 0 && count < room {
                        self.has_read_all();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for SharedTcp {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(context, bytes.len(), || self.0.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size = pieces.iter().map(|piece| piece.len()).sum();
        self.write(context, size, || self.0.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(socket2::SockRef::from(&*self.0).shutdown(std::net::Shutdown::Write))
    }
}

/// One end of a connection.
pub enum Socket {
    Tcp(SharedTcp),
    Unix(UnixStream),
}

/// Applies a function to the content.
macro_rules! either {
    ($value:expr, $kind:ident :: ($first:ident | $second:ident), $held:ident => $does:expr) => {
        match $value {
            $kind::$first($held) => $does,
            $kind::$second($held) => $does,
        }
    };
}
pub(crate) use either;

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Tcp | Unix), socket => Pin::new(socket).poll_read(context, into))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self::(Tcp | Unix), socket => Pin::new(socket).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), Self::(Tcp | Unix), socket => Pin::new(socket).poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Tcp | Unix), socket => Pin::new(socket).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), Self::(Tcp | Unix), socket => Pin::new(socket).poll_shutdown(context))
    }
}

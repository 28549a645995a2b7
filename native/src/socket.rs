//! Where connections come from.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 1024;

/// Listens at a host and port that nobody else has.
pub fn listen(address: &str) -> io::Result<TcpListener> {
    let found: Option<SocketAddr> = address.to_socket_addrs()?.next();
    let address = found.ok_or_else(|| io::Error::new(ErrorKind::AddrNotAvailable, "no such address"))?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A caller's address, as gRPC writes it.
pub fn peer_name(peer: SocketAddr) -> String {
    let family = if peer.is_ipv4() { "ipv4" } else { "ipv6" };
    format!("{family}:{peer}")
}

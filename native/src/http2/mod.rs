//! HTTP/2 connections below their calls: sockets, TLS, frames as they pass, how long a connection lives.

pub mod lifetime;
pub mod outgoing;
pub mod read_ahead;
pub mod socket;
pub mod stream;
pub mod tls;
pub mod unix_authority;

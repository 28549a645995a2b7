//! The server: addresses, the threads that serve connections, and the handling of each call.

mod acceptor;
mod busy_poll;
mod client;
mod connection;
mod dispatch;
mod infer;
mod limits;
mod listener;
mod lone;
mod pending;
mod rest;
mod service;
mod shared;
mod streams;
mod thread;

pub use listener::Server;

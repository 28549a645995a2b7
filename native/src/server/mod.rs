//! The server: addresses, the threads that connections live on, and what becomes of each call.

pub mod busy_poll;
pub mod connection;
pub mod limits;
pub mod listener;
pub mod thread;

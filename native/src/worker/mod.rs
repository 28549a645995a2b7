//! The link between the server and a worker process: short messages cross in shared memory.

mod direction;
mod link;
mod page;

pub use link::Link;

//! The link between the server and a worker process: short messages cross in shared memory. Known ones are exchanged
//! without the interpreter.

mod direction;
mod exchange;
mod free_places;
mod link;
mod page;

pub use direction::ROOM;
pub use exchange::{Answer, Exchange, Request};
pub use free_places::{Free, FreePlaces};
pub use link::Link;

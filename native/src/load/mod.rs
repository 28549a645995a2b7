//! A load generator: calls begun at planned times or as soon as others end, and what becomes of them. Stands on the client.

mod arrivals;
mod drive;
mod pacer;
mod plan;
mod python;
mod record;

pub use python::Load;

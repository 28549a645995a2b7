//! A load generator: begins calls at planned times or as soon as others end, and records their results. Builds on the
//! client.

mod arrivals;
mod drive;
mod pacer;
mod plan;
mod python;
mod record;

pub use python::Load;

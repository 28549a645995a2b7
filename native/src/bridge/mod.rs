//! The batching library's boundary: its queue, its batches and its routes, as Python has them.

pub mod batch;
pub mod python;
pub mod queue;

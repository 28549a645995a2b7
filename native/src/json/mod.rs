//! JSON outside the interpreter: what all readers agree on, and TF Serving's spelling of values.

mod decimal;
mod reader;
mod text;

pub use decimal::write_decimal;
pub use reader::{Number, Reader, once};
pub use text::{write_compact_string, write_line, write_string};

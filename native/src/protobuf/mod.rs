//! Protobuf's wire format, and the tensors in it: the parts that plain requests need.

mod dtype;
mod model_spec;
mod rope;
mod tensor;
pub mod texts;
pub mod wire;
mod writer;

pub use dtype::Dtype;
pub use model_spec::model_spec;
pub use rope::{Cursor, Rope};
pub use tensor::{CONTENT, Rows, Values};
pub use writer::Writer;

//! ONNX models on ONNX Runtime's C API, so that they can run while no thread has the interpreter lock.

mod api;
mod declared;
mod run_options;
mod session;
mod value;

pub use run_options::OnnxRunOptions;
pub use session::{Feed, OnnxSession};
pub use value::{OnnxValue, Value};

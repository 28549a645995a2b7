//! Runs ONNX models through ONNX Runtime's C API, which needs no interpreter lock.

mod api;
mod declared;
mod opening;
mod run_options;
mod session;
mod value;

pub use opening::OnnxOpening;
pub use run_options::OnnxRunOptions;
pub use session::{Feed, OnnxSession};
pub use value::{OnnxValue, Value};

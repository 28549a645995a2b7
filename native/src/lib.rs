//! The Python module and its interface version.
//!
//! A call or request is *plain* if this module reads it, checks it, puts it into a queue and answers it without any
//! Python code. Python at most runs the model, once for a whole batch: most ONNX models on the CPU are run here, too
//! (`onnx/`). All other calls go to Python's handlers. `docs/architecture.md` says which calls are plain.

#[cfg(not(feature = "fuzzing"))]
mod allocator;
mod bridge;
mod buffer;
mod calls;
mod client;
#[cfg(test)]
mod counted;
mod examples;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grpc;
mod handover;
mod http;
mod http2;
mod json;
mod kept;
mod load;
mod memory;
mod onnx;
mod open_inference;
mod predict;
mod protobuf;
mod queue;
mod rest;
mod security;
mod server;
mod traces;
mod worker;

use pyo3::prelude::*;
use pyo3::types::PyFrozenSet;

use crate::calls::Kind;

// The fuzz targets define an allocator of their own, which counts.
#[cfg(not(feature = "fuzzing"))]
#[global_allocator]
static ALLOCATOR: allocator::BySize = allocator::BySize;

/// The interface version that `headrace` checks: raised with every change that affects the Python side.
const INTERFACE: u32 = 32;

#[pymodule]
fn headrace_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add("BEGIN", Kind::Begin as u8)?;
    module.add("MESSAGE", Kind::Message as u8)?;
    module.add("SENT", Kind::Sent as u8)?;
    module.add("CANCELLED", Kind::Cancelled as u8)?;
    module.add("DRAINED", Kind::Drained as u8)?;
    module.add("LAPSED", Kind::Lapsed as u8)?;
    module.add_class::<calls::Call>()?;
    module.add("DTYPES", PyFrozenSet::new(module.py(), protobuf::Dtype::numbers())?)?;
    module.add_class::<bridge::Answers>()?;
    module.add_class::<bridge::Batch>()?;
    module.add_class::<bridge::Series>()?;
    module.add_class::<bridge::Route>()?;
    module.add_class::<bridge::Routes>()?;
    module.add_class::<onnx::OnnxOpening>()?;
    module.add_class::<onnx::OnnxRunOptions>()?;
    module.add_class::<onnx::OnnxSession>()?;
    module.add_class::<onnx::OnnxValue>()?;
    module.add_class::<bridge::Lane>()?;
    module.add_class::<open_inference::Regions>()?;
    module.add_class::<bridge::Queue>()?;
    module.add_class::<http::HttpEndpoint>()?;
    module.add_class::<http::HttpRequest>()?;
    module.add_class::<http2::Certificates>()?;
    module.add_class::<http2::Tls>()?;
    module.add("CLIENT_INTERFACE", client::INTERFACE)?;
    module.add_class::<client::ClientChannel>()?;
    module.add_class::<client::ClientRequest>()?;
    module.add_class::<client::ClientTls>()?;
    module.add_class::<client::Failure>()?;
    module.add_class::<load::Load>()?;
    module.add_class::<security::Account>()?;
    module.add_class::<security::AuditLines>()?;
    module.add_class::<security::Verdicts>()?;
    module.add_class::<traces::Spans>()?;
    module.add_class::<worker::Exchange>()?;
    module.add_class::<worker::FreePlaces>()?;
    module.add_class::<worker::Link>()?;
    module.add_class::<server::Server>()
}

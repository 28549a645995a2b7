//! The Python module and its interface version.

mod bridge;
mod calls;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod grpc;
mod http2;
mod json;
mod predict;
mod protobuf;
mod queue;
mod server;

use pyo3::prelude::*;
use pyo3::types::PyFrozenSet;

use crate::bridge::{batch, queue as tasks};
use crate::calls::exchange::{self, Kind};
use crate::http2::tls;
use crate::json::numbers;
use crate::protobuf::tensor;
use crate::server::listener;

/// Which `headrace` this fits: raised with every change that the Python side sees.
const INTERFACE: u32 = 5;

#[pymodule]
fn headrace_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add("BEGIN", Kind::Begin as u8)?;
    module.add("MESSAGE", Kind::Message as u8)?;
    module.add("SENT", Kind::Sent as u8)?;
    module.add("CANCELLED", Kind::Cancelled as u8)?;
    module.add("DRAINED", Kind::Drained as u8)?;
    module.add("LAPSED", Kind::Lapsed as u8)?;
    module.add_class::<exchange::Call>()?;
    module.add_function(wrap_pyfunction!(numbers::read_numbers, module)?)?;
    module.add("DTYPES", PyFrozenSet::new(module.py(), tensor::Dtype::numbers())?)?;
    module.add_class::<batch::Answers>()?;
    module.add_class::<batch::Batch>()?;
    module.add_class::<predict::Route>()?;
    module.add_class::<predict::Routes>()?;
    module.add_class::<tasks::Lane>()?;
    module.add_class::<tasks::Queue>()?;
    module.add_class::<tls::Certificates>()?;
    module.add_class::<tls::Tls>()?;
    module.add_class::<listener::Server>()
}

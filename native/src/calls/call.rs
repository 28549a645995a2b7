//! A call that Python handles: what Python can read of it, and the commands that it gets from Python.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use tokio::sync::mpsc::UnboundedSender;

use super::metadata;
use crate::grpc::{OK, Status};
use crate::memory;
use crate::security::Identity;

/// The state of a call that both sides share.
pub struct CallState {
    pub method: usize,
    headers: HeaderMap,
    deadline: Option<Instant>,
    peer: Arc<str>,
    identity: Arc<Identity>,
    commands: UnboundedSender<Command>,
    owner: Mutex<Option<Py<PyAny>>>,
}

impl CallState {
    /// Creates the state of a call whose headers have arrived; Python's commands go to `commands`.
    pub fn new(
        method: usize,
        headers: HeaderMap,
        deadline: Option<Instant>,
        (peer, identity): (Arc<str>, Arc<Identity>),
        commands: UnboundedSender<Command>,
    ) -> Self {
        Self { method, headers, deadline, peer, identity, commands, owner: Mutex::new(None) }
    }

    /// Ends the call with an error, as a command of its handler would.
    pub fn refuse(&self, status: Status) {
        self.command(Command::Finish { message: None, status, trailers: HeaderMap::new(), keep: None });
    }

    fn command(&self, command: Command) {
        // Fails only if the call has already ended; then the command has no purpose.
        let _ = self.commands.send(command);
    }
}

/// A command of the handler for its call.
pub enum Command {
    Read,
    Head(HeaderMap),
    Send(Bytes),
    Finish {
        message: Option<Bytes>,
        status: Status,
        trailers: HeaderMap,
        /// Set if this message may also answer equal calls until the server's state changes. Counts those calls.
        keep: Option<Py<PyAny>>,
    },
}

/// A call that Python handles. Python may store any object as its `owner`, which is dropped when the call ends.
#[pyclass(frozen, module = "headrace_native")]
pub struct Call {
    state: Arc<CallState>,
}

#[pymethods]
impl Call {
    #[getter]
    fn method(&self) -> usize {
        self.state.method
    }

    #[getter]
    fn peer(&self) -> &str {
        &self.state.peer
    }

    /// The client's certificate in DER; empty if the client has sent none.
    #[getter]
    fn certificate<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.state.identity.certificate())
    }

    #[getter]
    fn owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.owner.lock().as_ref().map(|owner| owner.clone_ref(py))
    }

    #[setter]
    fn set_owner(&self, owner: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *self.state.owner.lock(), owner);
        drop(before);
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        metadata::to_python(py, &self.state.headers)
    }

    fn time_remaining(&self) -> Option<f64> {
        let deadline = self.state.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    fn read(&self) {
        self.state.command(Command::Read);
    }

    fn send(&self, message: &Bound<'_, PyBytes>) -> PyResult<()> {
        self.state.command(Command::Send(copied(message)?));
        Ok(())
    }

    fn send_metadata(&self, metadata: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<()> {
        self.state.command(Command::Head(metadata::from_python(metadata)?));
        Ok(())
    }

    #[pyo3(signature = (message, code=OK, text=String::new(), trailers=Vec::new(), keep=None))]
    fn finish(
        &self,
        message: Option<&Bound<'_, PyBytes>>,
        code: u8,
        text: String,
        trailers: Vec<(String, Bound<'_, PyAny>)>,
        keep: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let message = message.map(copied).transpose()?;
        let trailers = metadata::from_python(trailers)?;
        self.state.command(Command::Finish { message, status: Status::new(code, text), trailers, keep });
        self.set_owner(None);
        Ok(())
    }
}

/// A copy of a message, which Python may free.
fn copied(message: &Bound<'_, PyBytes>) -> PyResult<Bytes> {
    let bytes = message.as_bytes();
    let no_memory = |_| PyMemoryError::new_err(format!("no memory for a message of {} bytes", bytes.len()));
    memory::copied(bytes).map_err(no_memory)
}

impl Call {
    pub fn new(state: Arc<CallState>) -> Self {
        Self { state }
    }
}

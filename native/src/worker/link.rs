//! One side of the link between the server and a worker process, as Python sees it.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::exceptions::{PyConnectionResetError, PyTimeoutError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::python_bytes;

use super::direction::{Direction, ROOM, Woken};
use super::page::Page;

/// One side of a link. One thread sends and receives; any thread may end it.
#[pyclass(frozen, module = "headrace_native")]
pub struct Link {
    page: Page,
    is_server: bool,
    /// A message that was taken, and is to be received again; Some(None) for one that is in the socket.
    untaken: Mutex<Option<Option<Vec<u8>>>>,
}

#[pymethods]
impl Link {
    #[classattr]
    const SIZE: usize = Page::SIZE;
    #[classattr]
    const ROOM: usize = ROOM;

    #[new]
    fn new(descriptor: i32, is_server: bool) -> PyResult<Self> {
        let file = File::options().read(true).write(true).open(format!("/proc/self/fd/{descriptor}"))?;
        Ok(Self { page: Page::map(file.as_fd()).map_err(std::io::Error::from)?, is_server, untaken: Mutex::default() })
    }

    fn send(&self, message: &[u8]) -> bool {
        self.outgoing().send(message)
    }

    fn send_elsewhere(&self) {
        self.outgoing().send_elsewhere();
    }

    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if let Some(message) = self.untaken.lock().take() {
            return message.map(|bytes| python_bytes(py, &bytes)).transpose();
        }
        let mut until = None;
        loop {
            if let Some(message) = self.incoming().take() {
                return message.map(|bytes| python_bytes(py, &bytes)).transpose();
            }
            if until.is_none() {
                until =
                    timeout.and_then(|seconds| Instant::now().checked_add(Duration::try_from_secs_f64(seconds).ok()?));
            }
            match py.detach(|| self.incoming().wait(until)) {
                Woken::Message => {}
                Woken::Interrupted => py.check_signals()?,
                Woken::TimedOut => return Err(PyTimeoutError::new_err(())),
                Woken::Ended => return Err(PyConnectionResetError::new_err("the link has ended")),
            }
        }
    }

    #[getter]
    fn all_taken(&self) -> bool {
        self.outgoing().all_taken()
    }

    fn end(&self) {
        self.close();
    }
}

impl Link {
    pub fn send_message(&self, message: &[u8]) -> bool {
        self.outgoing().send(message)
    }

    /// Waits for a message without the interpreter lock: None if it is in the socket. Signals are ignored.
    pub fn wait(&self, until: Option<Instant>) -> Result<Option<Vec<u8>>, Woken> {
        loop {
            if let Some(message) = self.incoming().take() {
                return Ok(message);
            }
            match self.incoming().wait(until) {
                Woken::Message | Woken::Interrupted => {}
                woken => return Err(woken),
            }
        }
    }

    /// Puts back a message that `wait` has returned: the next receive returns it again.
    pub fn untake(&self, message: Option<Vec<u8>>) {
        *self.untaken.lock() = Some(message);
    }

    pub fn has_ended(&self) -> bool {
        self.incoming().has_ended()
    }

    pub fn close(&self) {
        self.outgoing().end();
        self.incoming().end();
    }

    fn outgoing(&self) -> &Direction {
        if self.is_server { &self.page.to_worker } else { &self.page.to_server }
    }

    fn incoming(&self) -> &Direction {
        if self.is_server { &self.page.to_server } else { &self.page.to_worker }
    }
}

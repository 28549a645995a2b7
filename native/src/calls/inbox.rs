//! Events for the event loop, and the socket that announces them.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::call::{Call, CallState};
use crate::buffer::python_bytes;
use crate::grpc::Status;

/// The kinds of events; Python uses the same names, in capitals.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A call begins. The payload is its only message, or None if Python requests its messages one by one.
    Begin = 0,
    /// The next requested message, or None at the end.
    Message = 1,
    /// A message has been sent.
    Sent = 2,
    /// The call's client has gone.
    Cancelled = 3,
    /// The server has drained.
    Drained = 4,
    /// There are calls that have ended without Python and are counted when Python takes events.
    Lapsed = 5,
}

/// An event: a kind, the call that it belongs to, and bytes.
pub struct Event {
    kind: Kind,
    call: Option<Arc<CallState>>,
    payload: Option<Bytes>,
}

/// Events for the event loop. A byte in a socket tells the loop that there are events; it then takes all of them.
pub struct Inbox<E = Event> {
    events: Mutex<Vec<E>>,
    notify: UnixStream,
    readable: UnixStream,
}

impl<E> Inbox<E> {
    pub fn new() -> std::io::Result<Self> {
        let (notify, readable) = UnixStream::pair()?;
        notify.set_nonblocking(true)?;
        readable.set_nonblocking(true)?;
        Ok(Self { events: Mutex::new(Vec::new()), notify, readable })
    }

    /// The socket that is readable if there are events.
    pub fn readable(&self) -> &UnixStream {
        &self.readable
    }

    pub fn push(&self, event: E) {
        let mut events = self.events.lock();
        events.push(event);
        if events.len() == 1 {
            // The socket contains one byte at most, so there is room for it.
            let _ = (&self.notify).write(&[0]);
        }
    }

    pub fn take(&self) -> Vec<E> {
        let mut events = self.events.lock();
        if let Err(error) = (&self.readable).read(&mut [0]) {
            debug_assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        std::mem::take(&mut events)
    }
}

impl Event {
    pub fn new(kind: Kind, call: Option<&Arc<CallState>>, payload: Option<Bytes>) -> Self {
        Self { kind, call: call.cloned(), payload }
    }

    /// The event for Python: its kind, its call and its payload. If there is no memory for the payload, the call is
    /// refused, and the event is None, or `Cancelled` if Python already has the call.
    pub fn into_python(self, py: Python<'_>) -> PyResult<Option<Bound<'_, PyTuple>>> {
        let mut kind = self.kind;
        let payload = match self.payload.as_ref().map(|bytes| python_bytes(py, bytes)).transpose() {
            Ok(payload) => payload,
            Err(_) => {
                let size = self.payload.map_or(0, |bytes| bytes.len());
                self.call.iter().for_each(|call| call.refuse(Status::cannot_allocate(size)));
                match kind {
                    Kind::Begin => return Ok(None),
                    _ => kind = Kind::Cancelled,
                }
                None
            }
        };
        (kind as u8, self.call.map(Call::new), payload).into_pyobject(py).map(Some)
    }
}

//! A task in the queue: one that was decoded in Rust, or one from Python.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::ended::Abandoned;
use super::padding::{Lengths, Padding};
use super::signature::{Choice, Signature};
use crate::grpc::Status;
use crate::predict::Output;
use crate::protobuf::Dtype;
use crate::queue::Waits;

/// A request that was decoded outside the interpreter, with the means to answer its client. Only the type that
/// implements this trait knows the request's protocol, and how the answer is written.
///
/// The request belongs to its task, and so first to the queue, then to a batch thread. No method except `misfit` may
/// call Python.
pub trait PendingCall: std::any::Any + Send + Sync {
    /// The dimensions of an input beyond axis 0.
    fn inner(&self, input: usize) -> &[usize];

    /// Writes an input as an array's bytes; `target` has exactly their size.
    fn copy_to(&self, input: usize, dtype: Dtype, target: &mut [u8]);

    /// Visits the strings of an input in the order of its elements; some protocols have no string inputs.
    fn strings(&self, _input: usize, _visit: &mut dyn FnMut(&[u8])) {}

    /// Whether the call's client has gone.
    fn client_gone(&mut self) -> bool;

    /// Whether the call's client must still be answered. From then on, the call counts as answered. Called once, before
    /// `send` or `refuse`.
    fn claim(&mut self) -> bool {
        true
    }

    /// The number of the call's Examples; None for a call without Examples.
    fn examples(&self) -> Option<usize> {
        None
    }

    /// Whether an answer can be made from these outputs, in which this call's rows begin at `start`.
    fn fits(&self, _signature: &Signature, _outputs: &[Output<'_>], _start: usize, _rows: usize) -> bool {
        true
    }

    /// Raises a Python exception that says why no answer can be made. No other method of this trait calls Python.
    fn misfit(
        &self,
        _signature: &Signature,
        _outputs: &Bound<'_, PyDict>,
        _rows: Option<Range<usize>>,
    ) -> PyResult<()> {
        Ok(())
    }

    /// Encodes the call's answer from the rows `start` to `start + rows` of each output. Small answers of a batch are
    /// written into `out`, one after the other.
    fn encode(&mut self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize, out: &mut BytesMut);

    /// Sends what `encode` has produced. May be called on any thread; must not block or panic.
    fn send(self: Box<Self>);

    /// Answers with only a status; otherwise like `send`.
    fn refuse(&mut self, status: &Status);
}

/// A task that was decoded in Rust and has not run, and when it arrived, in seconds on the queue's clock.
pub type Waiting = (NativeTask, f64);

/// A task that was decoded in Rust.
pub struct NativeTask {
    pub signature: Arc<Signature>,
    pub rows: usize,
    /// The wanted outputs; None means all.
    pub choice: Option<Choice>,
    pub call: Box<dyn PendingCall>,
    /// Whether the task is traced: then the report of its run says when it arrived.
    pub traced: bool,
    came: Instant,
    abandoned: bool,
}

impl NativeTask {
    /// Creates the task of a call that arrived at `came`.
    pub fn new(signature: Arc<Signature>, rows: usize, call: Box<dyn PendingCall>, came: Instant) -> Self {
        Self { signature, rows, choice: None, call, traced: false, came, abandoned: false }
    }

    /// The same task, but only with these outputs in its answer.
    pub fn choosing(self, choice: Option<Choice>) -> Self {
        Self { choice, ..self }
    }

    /// The same task, with or without a trace.
    pub fn traced(self, traced: bool) -> Self {
        Self { traced, ..self }
    }

    /// The lengths of the task's inputs, if the task may be padded.
    pub fn lengths(&self, padding: &Padding) -> Lengths {
        padding.lengths((0..self.signature.inputs.len()).map(|input| self.call.inner(input)))
    }

    /// The size of the task, in bytes; at least 1.
    pub fn size(&self) -> usize {
        let inner = (0..self.signature.inputs.len()).map(|input| self.call.inner(input));
        self.rows * self.signature.row_bytes(inner).max(1)
    }

    /// How long its client has waited.
    pub fn seconds(&self) -> f64 {
        self.came.elapsed().as_secs_f64()
    }

    /// Counts the task as failed, and sends the error to its client.
    pub fn fail(mut self, py: Python<'_>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        if !self.call.claim() {
            return Ok(());
        }
        let status = self.signature.counter.failed(py, error, std::iter::once(self.seconds()))?;
        self.call.refuse(&status);
        Ok(())
    }

    /// Fails the task with the reason why no answer can be made from the outputs. `rows` are the task's rows of the
    /// outputs; None means all.
    pub fn fail_misfit(self, py: Python<'_>, outputs: &Bound<'_, PyDict>, rows: Option<Range<usize>>) -> PyResult<()> {
        let misfit = self.call.misfit(&self.signature, outputs, rows);
        let error = misfit.err().unwrap_or_else(|| PyTypeError::new_err("outputs were refused although they fit"));
        self.fail(py, error.value(py))
    }

    /// The aliases of the outputs that the task wants; None means all outputs.
    pub fn chosen<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let chosen = self.choice.map(|choice| self.signature.chosen(choice).collect::<Vec<_>>());
        chosen.map(|aliases| PyTuple::new(py, aliases)).transpose()
    }

    /// Encodes the task's rows of the outputs, which begin at `start`.
    pub fn encode(&mut self, outputs: &[Output<'_>], start: usize, out: &mut BytesMut) {
        self.call.encode(&self.signature, outputs, start, self.rows, out);
    }

    fn gone(&mut self) -> bool {
        self.abandoned || self.call.client_gone()
    }

    /// Ends the task, at most once, if its client has gone, or if it is `late`, in which case the client gets an error.
    pub fn abandon(&mut self, late: bool) -> Option<Abandoned> {
        if self.abandoned || !(late || self.call.client_gone()) {
            return None;
        }
        self.abandoned = true;
        if late {
            self.call.refuse(&Status::deadline_exceeded());
        }
        Some(Abandoned { signature: self.signature.clone(), late, seconds: self.seconds() })
    }
}

/// A task whose request was decoded in Rust, or one from Python.
pub enum Task {
    Native(NativeTask),
    /// A `headrace_batching.Task`. Only touched while the interpreter lock is held.
    Python(Py<PyAny>),
}

impl Waits for Task {
    type Abandoned = Abandoned;

    fn gone(&mut self) -> bool {
        match self {
            Self::Native(task) => task.gone(),
            // Plain attributes, so that no other Python code runs while the queue is locked.
            Self::Python(task) => Python::attach(|py| gone(task.bind(py)).unwrap_or(false)),
        }
    }

    fn abandon(&mut self, late: bool) -> Option<Abandoned> {
        match self {
            Self::Native(task) => task.abandon(late),
            // The call's handler in Python notices and counts this.
            Self::Python(_) => None,
        }
    }

    fn in_series(&self) -> bool {
        matches!(self, Self::Native(_))
    }

    fn needs_python(&self) -> bool {
        matches!(self, Self::Python(_))
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::Native(_) => None,
            Self::Python(task) => Some(Self::Python(Python::attach(|py| task.clone_ref(py)))),
        }
    }
}

fn gone(task: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(task.getattr("cancelled")?.is_truthy()?
        || !task.getattr("outputs")?.is_none()
        || !task.getattr("error")?.is_none())
}

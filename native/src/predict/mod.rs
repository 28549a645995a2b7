//! The plain Predict: bytes to a task, and a task's answer to bytes.

#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod request;
mod response;
mod route;

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use pyo3::prelude::*;

use crate::bridge::python;
use crate::grpc::{self, Status};
use crate::http2::outgoing::Outgoing;
use crate::protobuf::rope::Rope;
use crate::protobuf::tensor::Dtype;
use crate::queue::Key;
use request::{Request, Tensor, tensors};
use response::end;
pub use response::{Answer, Output};
pub use route::{Route, Routes};

pub const PATH: &str = "/tensorflow.serving.PredictionService/Predict";

/// A Predict that waits: where its arrays lie in the received bytes, and its own reply.
pub struct Task {
    pub route: Arc<Py<Route>>,
    pub rows: usize,
    message: Rope,
    tensors: Vec<Tensor>,
    respond: SendResponse<Bytes>,
    outgoing: Arc<Outgoing>,
    came: Instant,
    lapsed: bool,
}

/// A request that has been understood.
pub struct Plain {
    pub route: Arc<Py<Route>>,
    pub rows: usize,
    pub key: Key,
    tensors: Vec<Tensor>,
}

impl Routes {
    /// Understands a plain request; None for any other, good or bad, which is for Python to judge.
    pub fn read(&self, message: &Rope) -> Option<Plain> {
        let request = Request::read(message.cursor())?;
        let route = self.find(&request.spec)?;
        let (tensors, rows) = tensors(&request, &route.get().inputs, route.get().max_rows)?;
        let key = route.get().key(&tensors);
        Some(Plain { route, rows, key, tensors })
    }
}

impl Plain {
    /// What one of its rows takes in a batch.
    pub fn row_bytes(&self) -> usize {
        let inputs = self.route.get().inputs.iter().zip(&self.tensors);
        inputs.map(|(input, tensor)| tensor.inner.iter().product::<usize>() * input.dtype.size()).sum()
    }

    pub fn into_task(self, message: Rope, respond: SendResponse<Bytes>, outgoing: Arc<Outgoing>) -> Task {
        Task {
            route: self.route,
            rows: self.rows,
            message,
            tensors: self.tensors,
            respond,
            outgoing,
            came: Instant::now(),
            lapsed: false,
        }
    }
}

impl Task {
    /// The dimensions of an input beyond axis 0.
    pub fn inner(&self, input: usize) -> &[usize] {
        &self.tensors[input].inner
    }

    /// Writes an input as an array's bytes; `target` has room for exactly all.
    pub fn copy_to(&self, input: usize, dtype: Dtype, target: &mut [u8]) {
        self.tensors[input].values.copy_to(&self.message, dtype, target);
    }

    /// Whether nobody waits for it any more.
    pub fn gone(&mut self) -> bool {
        self.lapsed || self.left()
    }

    /// Says so, once; a caller whose deadline has passed is told.
    pub fn lapse(&mut self, late: bool) -> Option<Lapse> {
        if self.lapsed || !(late || self.left()) {
            return None;
        }
        self.lapsed = true;
        if late {
            let status = Status::new(grpc::DEADLINE_EXCEEDED, "Deadline Exceeded");
            end(&mut self.respond, &status);
        }
        Some(Lapse { route: self.route.clone(), late, seconds: self.seconds() })
    }

    fn left(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // Where a connection has broken down inside, its caller has left.
        python::sheltered(|| self.respond.poll_reset(&mut context).is_ready()).unwrap_or(true)
    }

    /// Since when it has been waited for.
    pub fn seconds(&self) -> f64 {
        self.came.elapsed().as_secs_f64()
    }

    /// Answers with a status alone.
    pub fn refuse(mut self, status: &Status) {
        end(&mut self.respond, status);
    }

    /// What it was made of, for who judges it anew.
    pub fn into_parts(self) -> (Rope, SendResponse<Bytes>) {
        (self.message, self.respond)
    }
}

/// A task for which nobody waits any more, or whose deadline has passed, and how long it has waited.
pub struct Lapse {
    route: Arc<Py<Route>>,
    late: bool,
    seconds: f64,
}

impl Lapse {
    pub fn count(self, py: Python<'_>) -> PyResult<()> {
        let error = if self.late { &python::TIMED_OUT } else { &python::CANCELLED }.call(py, ())?;
        self.route.get().failed(py, &error, std::iter::once(self.seconds)).map(|_| ())
    }
}

/// Calls of one route that found the queue full, and how long each took.
pub struct Refused {
    route: Arc<Py<Route>>,
    seconds: Vec<f64>,
}

impl Refused {
    /// Adds a call to those of its route.
    pub fn add(all: &mut Vec<Self>, route: &Arc<Py<Route>>, seconds: f64) {
        match all.iter_mut().find(|known| Arc::ptr_eq(&known.route, route)) {
            Some(known) => known.seconds.push(seconds),
            None => all.push(Self { route: route.clone(), seconds: vec![seconds] }),
        }
    }

    pub fn count(self, py: Python<'_>) -> PyResult<()> {
        let error = python::QUEUE_FULL.call(py, ("",))?;
        self.route.get().failed(py, &error, self.seconds.into_iter()).map(|_| ())
    }
}

//! Runs tasks in worker processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use smallvec::SmallVec;

use super::native_inputs::{join, shape};
use super::signature::Signature;
use super::task::Waiting;
use crate::buffer::Buffer;
use crate::predict::Output;
use crate::worker::{Answer, Exchange, Free, FreePlaces, ROOM, Request};

/// The worker processes of a model, and what Python does about the messages of one signature that are not known yet.
pub struct WorkerRun {
    places: Py<FreePlaces>,
    /// The signature's number in the exchanges.
    signature: usize,
    /// The time limit of a run.
    limit: Option<Duration>,
    collect: Py<PyAny>,
    prepare: Py<PyAny>,
    complete: Py<PyAny>,
    settle: Py<PyAny>,
}

/// The fields of a `WorkerRun` as Python passes them; `headrace_native.pyi` describes each.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct WorkerFields {
    places: Py<FreePlaces>,
    signature: usize,
    seconds: Option<f64>,
    collect: Py<PyAny>,
    prepare: Py<PyAny>,
    tell: Py<PyAny>,
    complete: Py<PyAny>,
    settle: Py<PyAny>,
}

/// The state of tasks after the attempt to run them in a worker process.
pub enum Asked {
    /// The tasks were not sent.
    Not,
    /// The process has sent a known answer, with these outputs; and when the inputs had been joined.
    Answered(WorkerOutputs, Instant),
    /// The tasks were sent, and Python must find out what the process has answered, if anything.
    Unanswered(Unanswered),
}

/// The outputs of a run whose answer is known, in shared memory.
pub struct WorkerOutputs {
    taken: Taken,
    answer: Arc<Answer>,
    message: Vec<u8>,
    joined: Instant,
}

impl WorkerOutputs {
    /// All outputs; `whole` says whether they belong to a single task.
    pub fn all<'a>(&'a self, whole: bool) -> SmallVec<[Output<'a>; 2]> {
        let output = |(alias, buffer): &'a (String, Buffer)| {
            let dtype = buffer.dtype()?;
            Some(Output { alias, dtype, shape: buffer.shape(), bytes: buffer.bytes(), text: &[], whole })
        };
        self.answer.outputs.iter().filter_map(output).collect()
    }

    /// Leaves the run to Python, since no answers can be made from its outputs.
    pub fn leave(self) -> Option<Unanswered> {
        let Self { mut taken, message, joined, .. } = self;
        taken.exchange()?.leave(message);
        taken.0.take().map(|free| Unanswered { free, joined, left: None })
    }
}

/// A run that Python must complete.
pub struct Unanswered {
    free: Free,
    pub joined: Instant,
    /// The seconds that are left until the time limit; None if there is no limit, or the answer has come.
    left: Option<f64>,
}

/// A place that has been taken. If it is dropped because of a panic, its link is ended.
struct Taken(Option<Free>);

impl Taken {
    fn exchange(&self) -> Option<&Exchange> {
        self.0.as_ref().map(|free| free.exchange.get())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange() {
            exchange.end();
        }
    }
}

impl WorkerRun {
    /// The processes that these fields describe, and the function that is told about their runs.
    pub fn new(fields: WorkerFields) -> (Self, Py<PyAny>) {
        let WorkerFields { places, signature, seconds, collect, prepare, tell, complete, settle } = fields;
        let limit = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        (Self { places, signature, limit, collect, prepare, complete, settle }, tell)
    }

    /// Sends tasks to a worker process, padded to this many rows, and waits for its answer.
    pub fn ask(&self, tasks: &[Waiting], padded: usize) -> Asked {
        let Some(free) = self.places.get().take() else { return Asked::Not };
        let mut taken = Taken(Some(free));
        let Some(joined) = self.send(&taken, tasks, padded) else {
            self.put(taken);
            return Asked::Not;
        };
        let until = self.limit.and_then(|limit| joined.checked_add(limit));
        if let Some((answer, message)) = taken.exchange().and_then(|exchange| exchange.receive(until)) {
            return Asked::Answered(WorkerOutputs { taken, answer, message, joined }, joined);
        }
        let unanswered = |free| Asked::Unanswered(Unanswered { free, joined, left: left(until) });
        taken.0.take().map_or(Asked::Not, unanswered)
    }

    /// Frees the place of a run whose outputs have been read.
    pub fn finish(&self, run: WorkerOutputs) {
        if let Some(exchange) = run.taken.exchange() {
            exchange.answered(&run.answer);
        }
        self.put(run.taken);
    }

    /// Lets Python complete a run, which began at one time and had its inputs at the other, on the queue's clock.
    pub fn complete(&self, batch: Bound<'_, PyAny>, [began, joined]: [f64; 2], run: Unanswered) -> PyResult<()> {
        let py = batch.py();
        self.complete.bind(py).call1((batch, began, joined, run.free.place, run.left)).map(drop)
    }

    /// Joins the inputs and sends them; returns when they had been joined.
    fn send(&self, taken: &Taken, tasks: &[Waiting], padded: usize) -> Option<Instant> {
        let free = taken.0.as_ref()?;
        let exchange = free.exchange.get();
        if exchange.takes_lent() {
            self.collect(free);
        }
        let signature = &tasks[0].0.signature;
        let request = exchange.request(self.signature, padded).or_else(|| self.prepare(free, signature, padded))?;
        if request.message.len() > ROOM {
            return None;
        }
        for (number, (input, buffer)) in signature.inputs.iter().zip(&request.inputs).enumerate() {
            let size = shape(tasks, padded, number).iter().product::<usize>() * input.dtype.size();
            join(tasks, (number, input.dtype), buffer.bytes_mut().get_mut(..size)?, size / padded);
        }
        let joined = Instant::now();
        exchange.send(&request).then_some(joined)
    }

    fn collect(&self, free: &Free) {
        let collect = |py: Python<'_>| self.collect.bind(py).call1((&free.place,))?.extract::<Vec<u32>>();
        match Python::try_attach(collect) {
            Some(Ok(numbers)) => free.exchange.get().owe(numbers),
            Some(Err(error)) => unraisable(error),
            None => {}
        }
    }

    /// Asks Python to make the message for a run. None if Python cannot: it then runs the tasks itself, and finds the
    /// reason again.
    fn prepare(&self, free: &Free, signature: &Signature, rows: usize) -> Option<Arc<Request>> {
        let exchange = free.exchange.get();
        Python::try_attach(|py| {
            let prepared = self.prepare.bind(py).call1((&free.place, rows, exchange.owed().into_vec())).ok()?;
            let (message, arrays) = prepared.extract::<(Vec<u8>, Vec<Bound<'_, PyAny>>)>().ok()?;
            let inputs =
                signature.inputs.iter().zip(&arrays).map(|(input, array)| Buffer::with_room(array, input.dtype));
            let inputs = inputs.collect::<PyResult<_>>().ok()?;
            Some(exchange.remember(self.signature, rows, Request { message, inputs }))
        })?
    }

    fn put(&self, mut taken: Taken) {
        let Some(free) = taken.0.take() else { return };
        if self.places.get().put(free) {
            let settle = |py: Python<'_>| self.settle.bind(py).call0().map(drop);
            if let Some(Err(error)) = Python::try_attach(settle) {
                unraisable(error);
            }
        }
    }
}

fn unraisable(error: PyErr) {
    Python::try_attach(|py| error.write_unraisable(py, None));
}

fn left(until: Option<Instant>) -> Option<f64> {
    until.map(|until| until.saturating_duration_since(Instant::now()).as_secs_f64())
}

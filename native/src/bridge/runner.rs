//! What runs tasks without the interpreter: an ONNX session, or worker processes.

use std::time::Instant;

use pyo3::prelude::*;
use smallvec::SmallVec;

use super::lane::Lane;
use super::native_inputs::shapes;
use super::session_run::{SessionFields, SessionRun};
use super::task::{Task, Waiting};
use super::worker_run::{Asked, Unanswered, WorkerFields, WorkerOutputs, WorkerRun};
use crate::onnx::Value;
use crate::predict::Output;
use crate::queue::{Piece, Turn};

pub enum Runner {
    Session(SessionRun),
    Workers(WorkerRun),
}

/// What runs the tasks, as Python passes it.
#[derive(FromPyObject)]
pub enum RunnerFields {
    Session(SessionFields),
    Workers(WorkerFields),
}

/// The outputs of a run.
pub enum Computed {
    Session(SmallVec<[Value; 2]>),
    Workers(WorkerOutputs),
}

/// The state of tasks after the attempt to run them.
pub enum Attempt {
    /// Their outputs, and when their inputs had been joined.
    Ran(Computed, Instant),
    /// A worker process runs them, or has run them, and Python must receive its answer.
    Unanswered(Unanswered),
    /// Python must run them.
    Not,
}

impl Runner {
    /// The runner that these fields describe, and the function that is told about its runs.
    pub fn new(fields: RunnerFields) -> (Self, Py<PyAny>) {
        match fields {
            RunnerFields::Session(fields) => {
                let (session, tell) = SessionRun::new(fields);
                (Self::Session(session), tell)
            }
            RunnerFields::Workers(fields) => {
                let (workers, tell) = WorkerRun::new(fields);
                (Self::Workers(workers), tell)
            }
        }
    }

    /// Whether tasks can run here, given that nothing else about them needs Python.
    pub fn takes(&self, lane: &Lane, turn: &Turn<Task>) -> bool {
        let wants_all = |piece: &Piece<Task>| matches!(&piece.task, Task::Native(task) if task.choice.is_none());
        match self {
            Self::Session(_) => true,
            Self::Workers(_) => lane.batched() && turn.pieces.iter().all(wants_all),
        }
    }

    /// Whether Python must run the next tasks, because ONNX Runtime's memory has grown. True only once after each run
    /// with a large output.
    pub fn leaves_next(&self) -> bool {
        matches!(self, Self::Session(session) if session.leaves_next())
    }

    /// Runs tasks together, padded to this many rows.
    pub fn compute(&self, tasks: &[Waiting], padded: usize) -> Attempt {
        match self {
            Self::Session(session) => match session.compute(tasks, padded) {
                Some((values, joined)) => Attempt::Ran(Computed::Session(values), joined),
                None => Attempt::Not,
            },
            Self::Workers(workers) => match workers.ask(tasks, padded) {
                Asked::Answered(outputs, joined) => Attempt::Ran(Computed::Workers(outputs), joined),
                Asked::Unanswered(run) => Attempt::Unanswered(run),
                Asked::Not => Attempt::Not,
            },
        }
    }

    /// The outputs that the tasks want.
    pub fn outputs<'a>(
        &'a self,
        tasks: &[Waiting],
        padded: usize,
        computed: &'a Computed,
    ) -> SmallVec<[Output<'a>; 2]> {
        let whole = tasks.len() == 1 && padded == tasks[0].0.rows;
        match (self, computed) {
            (Self::Session(session), Computed::Session(values)) => session.outputs(tasks, values, whole),
            (_, Computed::Workers(outputs)) => outputs.all(whole),
            _ => SmallVec::new(),
        }
    }

    /// Must be called when the outputs have been read.
    pub fn finish(&self, computed: Computed) {
        if let (Self::Workers(workers), Computed::Workers(outputs)) = (self, computed) {
            workers.finish(outputs);
        }
    }

    /// Leaves a run to Python, because no answers can be made from its outputs; None if Python must run the tasks
    /// again.
    pub fn leave(&self, computed: Computed) -> Option<Unanswered> {
        match computed {
            Computed::Workers(outputs) => outputs.leave(),
            Computed::Session(_) => None,
        }
    }

    /// Leaves a worker process's run to Python, which completes it. `times` are when it began and when its inputs were
    /// ready, on the queue's clock.
    pub fn complete(&self, batch: Bound<'_, PyAny>, times: [f64; 2], run: Unanswered) -> PyResult<()> {
        match self {
            Self::Workers(workers) => workers.complete(batch, times, run),
            Self::Session(_) => Ok(()), // its runs leave nothing to complete
        }
    }

    /// The shapes of the inputs if ONNX Runtime's memory has grown because of these outputs; otherwise None.
    pub fn grows(&self, tasks: &[Waiting], padded: usize, outputs: &[Output<'_>]) -> Option<Vec<Vec<usize>>> {
        matches!(self, Self::Session(session) if session.is_large(outputs)).then(|| shapes(tasks, padded))
    }

    /// Tells Python that ONNX Runtime's memory has grown in a run whose inputs had these shapes.
    pub fn grew(&self, shapes: Vec<Vec<usize>>) {
        if let Self::Session(session) = self {
            session.grew(shapes);
        }
    }
}

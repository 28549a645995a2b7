//! Joins, runs and answers tasks without the interpreter lock, so that they do not wait for Python code.
//!
//! Tasks can run here if all of them were decoded here and nothing about them needs Python (`takes`). If a run fails, or
//! an answer cannot be made from its outputs, none of its tasks has been answered: they are then treated like any
//! others, so Python runs them again, splits their batch, and creates the errors.

use std::ffi::{CStr, CString};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::answers::buffer_for;
use super::lane::Lane;
use super::native_counts::{Counts, Runs};
use super::native_inputs::{rows_of, shapes, with_inputs};
use super::ready::Ready;
use super::signature::Choice;
use super::task::{NativeTask, Task, Waiting};
use crate::onnx::{OnnxSession, Value};
use crate::predict::Output;
use crate::queue::{Piece, Turn};

/// The maximum size in bytes of a batch that is run here, since each thread keeps memory for a batch of this size.
/// Python's share of the time of a larger batch is small.
const MOST: usize = 1 << 20;

/// How the tasks of one lane run without the interpreter.
pub struct NativeRun {
    session: Py<OnnxSession>,
    /// The names of the inputs in the model, in the signature's order.
    inputs: Vec<CString>,
    /// The alias of each output and its name in the model, in the signature's order.
    outputs: Vec<(String, CString)>,
    pub counts: Counts,
    /// Called after a run with a large output, with the shapes of the run's inputs.
    grown: Py<PyAny>,
    /// If an output has at least this many bytes, ONNX Runtime's memory is assumed to have grown. From then on Python
    /// runs the tasks, and has ONNX Runtime free that memory.
    large: usize,
    /// Whether a run has had such an output.
    has_grown: AtomicBool,
    running: AtomicUsize,
    /// When the last run ended, in seconds on the queue's clock, as bits.
    ended: AtomicU64,
}

/// The fields of a `NativeRun` as Python passes them; `headrace_native.pyi` describes each.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct NativeRunFields {
    session: Py<OnnxSession>,
    inputs: Vec<CString>,
    outputs: Vec<(String, CString)>,
    tell: Py<PyAny>,
    grown: Py<PyAny>,
    large: usize,
}

/// The runs that have ended, and their answers, until these are sent.
#[derive(Default)]
struct Ended {
    ready: Ready,
    runs: Runs,
}

impl NativeRun {
    pub fn new(fields: NativeRunFields) -> Self {
        let NativeRunFields { session, inputs, outputs, tell, grown, large } = fields;
        let (has_grown, running, ended) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicU64::new(0));
        let counts = Counts::new(tell);
        Self { session, inputs, outputs, counts, grown, large, has_grown, running, ended }
    }

    /// The number of turns whose tasks are running.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// When the last run ended; 0 before the first.
    pub fn last_ended(&self) -> f64 {
        f64::from_bits(self.ended.load(Ordering::Relaxed))
    }

    /// Runs and answers the tasks of a turn, as one batch or, without a batch axis, one by one. Returns the turn with
    /// the tasks that Python must run or answer; None if there are none.
    pub fn run(self: &Arc<Self>, lane: &Lane, mut turn: Turn<Task>) -> Option<Turn<Task>> {
        if !takes(lane, &turn) {
            return Some(turn);
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let left = self.run_all(lane, taken(std::mem::take(&mut turn.pieces)));
        self.running.fetch_sub(1, Ordering::Relaxed);
        if self.counts.are_due() {
            lane.count_later(self);
        }
        turn.pieces = left.into_iter().map(given_back).collect();
        let has_ended = turn.pieces.is_empty() && turn.expired.is_empty() && turn.gone.is_empty();
        (!has_ended).then_some(turn)
    }

    /// Runs and answers tasks; returns those that Python must run.
    fn run_all(&self, lane: &Lane, tasks: Vec<Waiting>) -> Vec<Waiting> {
        let at_once = if lane.batched() { tasks.len() } else { 1 };
        let (mut waiting, mut left, mut ended) = (tasks.into_iter(), Vec::new(), Ended::default());
        while waiting.len() > 0 && !self.has_grown.load(Ordering::Relaxed) {
            let own = waiting.by_ref().take(at_once).collect();
            left.extend(self.run_batch(lane, own, &mut ended));
        }
        self.send(&mut ended);
        left.extend(waiting);
        left
    }

    /// Runs tasks together; returns them if Python must run them.
    fn run_batch(&self, lane: &Lane, mut tasks: Vec<Waiting>, ended: &mut Ended) -> Vec<Waiting> {
        let (began, padded) = (Instant::now(), lane.padded_rows(rows_of(&tasks)));
        // A panic here or in `fit` has not changed any task, so Python can run them.
        let ran = catch_unwind(AssertUnwindSafe(|| self.compute(&tasks, padded))).ok().flatten();
        let Some((values, joined)) = ran else { return tasks };
        let computed = Instant::now();
        let outputs = self.outputs(&tasks, padded, &values);
        if !catch_unwind(AssertUnwindSafe(|| fit(&tasks, padded, &outputs))).unwrap_or(false) {
            return tasks;
        }
        if catch_unwind(AssertUnwindSafe(|| encode(&mut tasks, &outputs, &mut ended.ready.bytes))).is_err() {
            ended.ready.bytes.clear(); // a part of an answer, which must not precede the next one
            fail(tasks);
            return Vec::new();
        }
        let is_large = outputs.iter().any(|output| output.bytes.len() >= self.large);
        let shapes = if is_large { shapes(&tasks, padded) } else { Vec::new() };
        self.record(lane, [began, joined, computed, Instant::now()], tasks, ended);
        if is_large {
            self.send(ended);
            self.grow(shapes);
        }
        Vec::new()
    }

    /// Records a run that began, had its inputs, had its outputs and ended at these times, and sends the answers that
    /// have waited long enough.
    fn record(&self, lane: &Lane, times: [Instant; 4], tasks: Vec<Waiting>, ended: &mut Ended) {
        let on_clock = times.map(|time| lane.clock().at(time));
        self.ended.store(on_clock[3].to_bits(), Ordering::Relaxed);
        if !lane.batched() {
            lane.ran(on_clock[3] - on_clock[0], tasks.iter().map(|(task, _)| task.size()).sum());
        }
        ended.runs.add(on_clock, &tasks, lane.padded_rows(rows_of(&tasks)));
        if ended.ready.add(tasks.into_iter().map(|(task, _)| task), times[0], times[3]) {
            self.send(ended);
        }
    }

    /// Counts the runs and their tasks, and sends the answers.
    fn send(&self, Ended { ready, runs }: &mut Ended) {
        ready.send(|tasks| self.counts.add(runs, tasks));
    }

    /// Tells Python that ONNX Runtime's memory has grown in a run whose inputs had these shapes.
    fn grow(&self, shapes: Vec<Vec<usize>>) {
        self.has_grown.store(true, Ordering::Relaxed);
        let tell = |py: Python<'_>| self.grown.bind(py).call1((shapes,)).map(drop);
        Python::try_attach(|py| tell(py).unwrap_or_else(|error| error.write_unraisable(py, None)));
    }

    /// The outputs that the tasks want, and when the inputs had been joined; None if the run failed.
    fn compute(&self, tasks: &[Waiting], padded: usize) -> Option<(SmallVec<[Value; 2]>, Instant)> {
        let names: SmallVec<[&CStr; 2]> = self.wanted(choice(tasks)).map(|(_, name)| name.as_c_str()).collect();
        with_inputs(tasks, padded, |feeds| {
            let joined = Instant::now();
            let values = self.session.get().compute((&self.inputs, feeds), &names, None).ok()?;
            Some((values.into_iter().collect::<Option<_>>()?, joined))
        })
    }

    /// The outputs of a choice; None means all.
    fn wanted(&self, choice: Option<Choice>) -> impl Iterator<Item = &(String, CString)> {
        let outputs = self.outputs.iter().enumerate();
        outputs.filter(move |(number, _)| choice.is_none_or(|choice| choice.has(*number))).map(|(_, output)| output)
    }

    fn outputs<'a>(&'a self, tasks: &[Waiting], padded: usize, values: &'a [Value]) -> SmallVec<[Output<'a>; 2]> {
        let output = |((alias, _), value): (&'a (String, CString), &'a Value)| Output {
            alias,
            dtype: value.dtype,
            shape: &value.shape,
            bytes: value.bytes(),
            text: &[],
            whole: tasks.len() == 1 && padded == tasks[0].0.rows,
        };
        self.wanted(choice(tasks)).zip(values).map(output).collect()
    }
}

/// Whether the tasks of a turn can run here: their batch is not too large, and all were decoded here, are not traced, and
/// have inputs of one length.
fn takes(lane: &Lane, turn: &Turn<Task>) -> bool {
    let plain = |task: &NativeTask| task.rows > 0 && !task.traced && task.signature.padding.is_none();
    let rows = turn.pieces.iter().map(|piece| piece.stop - piece.start).sum::<usize>().max(1);
    turn.size.saturating_mul(lane.padded_rows(rows)) / rows <= MOST
        && turn.pieces.iter().all(|piece| matches!(&piece.task, Task::Native(task) if plain(task)))
}

/// The choice that tasks share which run together.
fn choice(tasks: &[Waiting]) -> Option<Choice> {
    tasks.first().and_then(|(task, _)| task.choice)
}

/// The tasks of pieces that were all decoded here, and when they arrived.
fn taken(pieces: Vec<Piece<Task>>) -> Vec<Waiting> {
    let own = |piece: Piece<Task>| match piece.task {
        Task::Native(task) => Some((task, piece.arrived)),
        Task::Python(_) => None,
    };
    pieces.into_iter().filter_map(own).collect()
}

/// The piece of a task, as it was before `taken`: such tasks leave the queue as a whole.
fn given_back((task, arrived): Waiting) -> Piece<Task> {
    Piece { start: 0, stop: task.rows, task: Task::Native(task), arrived }
}

/// Whether every task's answer can be made from the outputs.
fn fit(tasks: &[Waiting], padded: usize, outputs: &[Output<'_>]) -> bool {
    let has_rows = |output: &Output<'_>| output.whole || output.shape.first() == Some(&padded);
    let mut start = 0;
    outputs.iter().all(has_rows)
        && tasks.iter().all(|(task, _)| {
            let first = start;
            start += task.rows;
            task.call.fits(&task.signature, outputs, first, task.rows)
        })
}

/// Encodes the tasks' answers, into `out` if they are small.
fn encode(tasks: &mut [Waiting], outputs: &[Output<'_>], out: &mut BytesMut) {
    if out.capacity() == 0 {
        *out = buffer_for(outputs, tasks.len());
    }
    let mut start = 0;
    for (task, _) in tasks {
        task.encode(outputs, start, out);
        start += task.rows;
    }
}

/// Fails tasks whose answers could not be written, because of a bug here.
fn fail(tasks: Vec<Waiting>) {
    Python::attach(|py| {
        let error = PyRuntimeError::new_err("headrace-native has panicked: this is a bug");
        for (task, _) in tasks {
            if let Err(error) = task.fail(py, error.value(py)) {
                error.write_unraisable(py, None);
            }
        }
    });
}

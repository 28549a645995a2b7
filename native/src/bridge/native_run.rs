//! Joins, runs and answers batches without the interpreter lock, so that they do not wait for Python code.
//!
//! A batch can run here if all its tasks were decoded here and nothing about it needs Python (`takes`). If its run
//! fails, or an answer cannot be made from its outputs, no task has been answered: the batch is then treated like any
//! other, so Python runs it again, splits it, and creates the errors.

use std::cell::RefCell;
use std::ffi::CString;
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
use super::native_counts::{Counts, Times};
use super::task::{NativeTask, Task};
use crate::onnx::{Feed, OnnxSession, Value};
use crate::predict::Output;
use crate::queue::{Piece, Turn};

/// The maximum size in bytes of a batch that is run here, since each thread keeps memory for a batch of this size.
/// Python's share of the time of a larger batch is small.
const MOST: usize = 1 << 20;

/// The alignment of joined inputs in bytes, which is enough for every numpy array.
const ALIGNMENT: usize = 64;

thread_local! {
    static JOINED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// How the batches of one lane run without the interpreter.
pub struct NativeRun {
    session: Py<OnnxSession>,
    /// The names of the inputs and outputs in the model, in the signature's order.
    inputs: Vec<CString>,
    outputs: Vec<CString>,
    aliases: Vec<String>,
    pub counts: Counts,
    /// Called after a run with a large output, with the shapes of the run's inputs.
    grown: Py<PyAny>,
    /// If an output has at least this many bytes, ONNX Runtime's memory is assumed to have grown. From then on Python
    /// runs the batches, and has ONNX Runtime free that memory.
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

impl NativeRun {
    pub fn new(fields: NativeRunFields) -> Self {
        let NativeRunFields { session, inputs, outputs, tell, grown, large } = fields;
        let (aliases, outputs) = outputs.into_iter().unzip();
        let (has_grown, running, ended) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicU64::new(0));
        let counts = Counts::new(tell);
        Self { session, inputs, outputs, aliases, counts, grown, large, has_grown, running, ended }
    }

    /// The number of batches that are running.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// When the last run ended; 0 before the first.
    pub fn last_ended(&self) -> f64 {
        f64::from_bits(self.ended.load(Ordering::Relaxed))
    }

    /// Runs and answers a batch that has left the queue; returns it if Python must run it.
    pub fn run(self: &Arc<Self>, lane: &Lane, turn: Turn<Task>) -> Option<Turn<Task>> {
        if self.has_grown.load(Ordering::Relaxed) || !takes(&turn) {
            return Some(turn);
        }
        self.running.fetch_add(1, Ordering::Relaxed);
        let left = self.attempt(lane, turn);
        self.running.fetch_sub(1, Ordering::Relaxed);
        if left.is_none() && self.counts.are_due() {
            lane.count_later(self);
        }
        left
    }

    fn attempt(&self, lane: &Lane, turn: Turn<Task>) -> Option<Turn<Task>> {
        let began = Instant::now();
        // A panic here or in `fit` has not changed any task, so Python can run the batch.
        let ran = catch_unwind(AssertUnwindSafe(|| self.compute(&turn.pieces))).ok().flatten();
        let Some((values, joined)) = ran else { return Some(turn) };
        let computed = Instant::now();
        let outputs = self.outputs(&values, turn.pieces.len() == 1);
        let fits = catch_unwind(AssertUnwindSafe(|| fit(&turn.pieces, &outputs)));
        if !fits.unwrap_or(false) {
            return Some(turn);
        }
        let is_large = outputs.iter().any(|output| output.bytes.len() >= self.large);
        let shapes = if is_large { shapes(&turn.pieces) } else { Vec::new() };
        let (mut tasks, arrivals) = taken(turn.pieces);
        let sizes = tasks.iter().map(|task| task.rows).collect();
        if catch_unwind(AssertUnwindSafe(|| encode(&mut tasks, &outputs))).is_err() {
            fail(tasks);
            return None;
        }
        tasks.retain_mut(|task| task.call.claim());
        let ended = Instant::now();
        self.ended.store(lane.clock().at(ended).to_bits(), Ordering::Relaxed);
        let times = [began, joined, computed, ended].map(|time| lane.clock().at(time));
        self.counts.add(Times(times), arrivals, sizes, &tasks);
        tasks.into_iter().for_each(|task| task.call.send());
        if is_large {
            self.has_grown.store(true, Ordering::Relaxed);
            let tell = |py: Python<'_>| self.grown.bind(py).call1((shapes,)).map(drop);
            Python::try_attach(|py| tell(py).unwrap_or_else(|error| error.write_unraisable(py, None)));
        }
        None
    }

    /// The outputs of the batch, and when its inputs were joined; None if the run failed.
    fn compute(&self, pieces: &[Piece<Task>]) -> Option<(SmallVec<[Value; 2]>, Instant)> {
        let signature = &native(pieces).next()?.signature;
        let rows = native(pieces).map(|task| task.rows).sum::<usize>();
        JOINED.with_borrow_mut(|joined| {
            joined.resize_with(joined.len().max(signature.inputs.len()), Vec::new);
            let mut feeds: SmallVec<[Feed<'_>; 2]> = SmallVec::new();
            for ((number, input), memory) in signature.inputs.iter().enumerate().zip(joined.iter_mut()) {
                let inner = native(pieces).next()?.call.inner(number);
                let shape: SmallVec<[usize; 4]> = std::iter::once(rows).chain(inner.iter().copied()).collect();
                let size = shape.iter().product::<usize>() * input.dtype.size();
                let bytes = room(memory, size);
                let mut rest = &mut *bytes;
                for task in native(pieces) {
                    let (place, others) = rest.split_at_mut(size / rows * task.rows);
                    task.call.copy_to(number, input.dtype, place);
                    rest = others;
                }
                feeds.push(Feed { dtype: input.dtype, shape, bytes });
            }
            let ready = Instant::now();
            let values = self.session.get().compute((&self.inputs, &feeds), &self.outputs, None).ok()?;
            Some((values.into_iter().collect::<Option<_>>()?, ready))
        })
    }

    fn outputs<'a>(&'a self, values: &'a [Value], whole: bool) -> SmallVec<[Output<'a>; 2]> {
        let output = |(alias, value): (&'a String, &'a Value)| Output {
            alias,
            dtype: value.dtype,
            shape: &value.shape,
            bytes: value.bytes(),
            text: &[],
            whole,
        };
        self.aliases.iter().zip(values).map(output).collect()
    }
}

/// Whether a batch can run here: it is not too large, and all its tasks were decoded here, want all outputs, and are
/// neither padded nor traced.
fn takes(turn: &Turn<Task>) -> bool {
    let plain = |task: &NativeTask| task.choice.is_none() && !task.traced && task.signature.padding.is_none();
    turn.size <= MOST
        && turn.expired.is_empty()
        && turn.gone.is_empty()
        && !turn.pieces.is_empty()
        && turn.pieces.iter().all(|piece| matches!(&piece.task, Task::Native(task) if task.rows > 0 && plain(task)))
}

fn native(pieces: &[Piece<Task>]) -> impl Iterator<Item = &NativeTask> {
    pieces.iter().filter_map(|piece| match &piece.task {
        Task::Native(task) => Some(task),
        Task::Python(_) => None,
    })
}

/// Aligned memory of this size for a joined input.
fn room(memory: &mut Vec<u8>, size: usize) -> &mut [u8] {
    if memory.len() < size + ALIGNMENT {
        memory.resize(size + ALIGNMENT, 0);
    }
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    &mut memory[start..start + size]
}

/// Whether every task's answer can be made from the outputs.
fn fit(pieces: &[Piece<Task>], outputs: &[Output<'_>]) -> bool {
    let rows = native(pieces).map(|task| task.rows).sum::<usize>();
    let has_rows = |output: &Output<'_>| output.whole || output.shape.first() == Some(&rows);
    let mut start = 0;
    outputs.iter().all(has_rows)
        && native(pieces).all(|task| {
            let first = start;
            start += task.rows;
            task.call.fits(&task.signature, outputs, first, task.rows)
        })
}

/// The shapes of the joined inputs.
fn shapes(pieces: &[Piece<Task>]) -> Vec<Vec<usize>> {
    let rows = native(pieces).map(|task| task.rows).sum::<usize>();
    let Some(first) = native(pieces).next() else { return Vec::new() };
    let shape = |input| std::iter::once(rows).chain(first.call.inner(input).iter().copied()).collect();
    (0..first.signature.inputs.len()).map(shape).collect()
}

/// The tasks of the pieces, and when they arrived.
fn taken(pieces: Vec<Piece<Task>>) -> (Vec<NativeTask>, Vec<f64>) {
    let own = |piece: Piece<Task>| match piece.task {
        Task::Native(task) => Some((task, piece.arrived)),
        Task::Python(_) => None,
    };
    pieces.into_iter().filter_map(own).unzip()
}

fn encode(tasks: &mut [NativeTask], outputs: &[Output<'_>]) {
    let mut out: BytesMut = buffer_for(outputs, tasks.len());
    let mut start = 0;
    for task in tasks {
        task.encode(outputs, start, &mut out);
        start += task.rows;
    }
}

/// Fails tasks whose answers could not be written, because of a bug here.
fn fail(tasks: Vec<NativeTask>) {
    Python::attach(|py| {
        let error = PyRuntimeError::new_err("headrace-native has panicked: this is a bug");
        for task in tasks {
            if let Err(error) = task.fail(py, error.value(py)) {
                error.write_unraisable(py, None);
            }
        }
    });
}

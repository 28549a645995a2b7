//! Joins, runs and answers tasks without the interpreter lock, so that they do not wait for Python code.
//!
//! Tasks can run here if all of them were decoded in Rust and nothing about them needs Python (`takes`). If a run in an
//! ONNX session fails, or an answer cannot be made from its outputs, none of its tasks has been answered: they are then
//! treated like any others, so Python runs them again, splits their batch, and creates the errors. A run in a worker
//! process is not repeated: Python receives its answer and completes the batch.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::answers::buffer_for;
use super::form;
use super::lane::Lane;
use super::native_counts::{Counts, Runs};
use super::native_inputs::rows_of;
use super::ready::Ready;
use super::runner::{Attempt, Runner, RunnerFields};
use super::task::{NativeTask, Task, Waiting};
use super::worker_run::Unanswered;
use crate::predict::Output;
use crate::queue::{Piece, Turn};

/// The maximum size in bytes of a batch that is run here, since each thread keeps memory for a batch of this size.
/// Python's share of the time of a larger batch is small.
const MOST: usize = 1 << 20;

/// How the tasks of one lane run without the interpreter.
pub struct NativeRun {
    runner: Runner,
    pub counts: Counts,
    running: AtomicUsize,
    /// When the last run ended, in seconds on the queue's clock, as bits.
    ended: AtomicU64,
}

/// The runs that have ended, and their answers, until these are sent.
#[derive(Default)]
struct Ended {
    ready: Ready,
    runs: Runs,
}

impl NativeRun {
    pub fn new(runner: RunnerFields) -> Self {
        let (runner, tell) = Runner::new(runner);
        Self { runner, counts: Counts::new(tell), running: AtomicUsize::new(0), ended: AtomicU64::new(0) }
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
        if !takes(lane, &turn) || !self.runner.takes(lane, &turn) {
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
        while waiting.len() > 0 && !self.runner.leaves_next() {
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
        // A panic here has not changed any task, so Python can run them.
        let ran = catch_unwind(AssertUnwindSafe(|| self.runner.compute(&tasks, padded))).unwrap_or(Attempt::Not);
        let (computed, joined) = match ran {
            Attempt::Ran(computed, joined) => (computed, joined),
            Attempt::Unanswered(run) => return self.complete(lane, tasks, began, run),
            Attempt::Not => return tasks,
        };
        let at = Instant::now();
        let outputs = self.runner.outputs(&tasks, padded, &computed);
        let encoded = encode(&mut tasks, padded, &outputs, &mut ended.ready.bytes);
        let grown = self.runner.grows(&tasks, padded, &outputs);
        drop(outputs);
        match encoded {
            Encoded::All => {
                self.runner.finish(computed);
                self.record(lane, [began, joined, at, Instant::now()], tasks, ended);
                if let Some(shapes) = grown {
                    self.send(ended);
                    self.runner.grew(shapes);
                }
                Vec::new()
            }
            Encoded::None => match self.runner.leave(computed) {
                Some(run) => self.complete(lane, tasks, began, run),
                None => tasks,
            },
            Encoded::Part => {
                fail(tasks);
                Vec::new()
            }
        }
    }

    /// Lets Python receive the answer of a worker process, and complete the batch.
    fn complete(&self, lane: &Lane, tasks: Vec<Waiting>, began: Instant, run: Unanswered) -> Vec<Waiting> {
        let times = [began, run.joined].map(|time| lane.clock().at(time));
        // While the interpreter ends, the tasks are dropped, which fails them.
        let _ = Python::try_attach(|py| {
            let batch = form::batch(py, lane, tasks.into_iter().map(given_back).collect());
            let completed = batch.and_then(|batch| self.runner.complete(batch, times, run));
            completed.unwrap_or_else(|error| error.write_unraisable(py, None));
        });
        Vec::new()
    }

    /// Records a run, and sends the answers that have waited long enough. `times` are when the run began, when its
    /// inputs were ready, when its outputs were ready, and when it ended.
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
}

/// Whether the tasks of a turn can run here: their batch is not too large, and all were decoded in Rust, are not
/// traced, and have inputs of one length.
fn takes(lane: &Lane, turn: &Turn<Task>) -> bool {
    let plain = |task: &NativeTask| task.rows > 0 && !task.traced && task.signature.padding.is_none();
    let rows = turn.pieces.iter().map(|piece| piece.stop - piece.start).sum::<usize>().max(1);
    turn.size.saturating_mul(lane.padded_rows(rows)) / rows <= MOST
        && turn.pieces.iter().all(|piece| matches!(&piece.task, Task::Native(task) if plain(task)))
}

/// The tasks of pieces that were all decoded in Rust, and when they arrived.
fn taken(pieces: Vec<Piece<Task>>) -> Vec<Waiting> {
    let own = |piece: Piece<Task>| match piece.task {
        Task::Native(task) => Some((task, piece.arrived)),
        Task::Python(_) => None,
    };
    pieces.into_iter().filter_map(own).collect()
}

/// The piece of a task, as it was before `taken`: all of the task's rows, because tasks that were decoded in Rust leave
/// the queue as a whole.
fn given_back((task, arrived): Waiting) -> Piece<Task> {
    Piece { start: 0, stop: task.rows, task: Task::Native(task), arrived }
}

/// Which of the tasks' answers have been encoded.
enum Encoded {
    All,
    /// None, because an answer cannot be made from the outputs.
    None,
    /// Only some of them, because encoding panicked.
    Part,
}

/// Encodes the tasks' answers if all can be made from the outputs; into `out` if they are small.
fn encode(tasks: &mut [Waiting], padded: usize, outputs: &[Output<'_>], out: &mut BytesMut) -> Encoded {
    // A panic in `fit` has not changed any task.
    if !catch_unwind(AssertUnwindSafe(|| fit(tasks, padded, outputs))).unwrap_or(false) {
        return Encoded::None;
    }
    if catch_unwind(AssertUnwindSafe(|| encode_all(tasks, outputs, out))).is_err() {
        out.clear(); // a part of an answer, which must not precede the next one
        return Encoded::Part;
    }
    Encoded::All
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

fn encode_all(tasks: &mut [Waiting], outputs: &[Output<'_>], out: &mut BytesMut) {
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
    let _ = Python::try_attach(|py| {
        let error = PyRuntimeError::new_err("headrace-native has panicked: this is a bug");
        for (task, _) in tasks {
            if let Err(error) = task.fail(py, error.value(py)) {
                error.write_unraisable(py, None);
            }
        }
    });
}

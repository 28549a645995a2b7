//! One signature of one version: how its plain requests are checked and counted.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

use super::magnitude::Magnitude;
use super::padding::Padding;
use crate::grpc::Status;
use crate::predict::{Format, Input};
use crate::queue::Key;

/// How many times an answer is in memory while it is encoded: as the model's arrays, and as a message.
const ANSWER_COPIES: usize = 2;

/// The largest request, in bytes, whose numbers are compared with a bound here. Python compares those of larger
/// requests, and of requests that send a single value for a whole array.
const COMPARED: usize = 1 << 20;

/// The checks of one signature's plain requests, and the form of its answers.
#[derive(Clone)]
pub struct Signature {
    /// The model's name.
    pub model: Arc<str>,
    pub inputs: Vec<Input>,
    /// The aliases of all outputs.
    pub outputs: Arc<[String]>,
    /// Whether axis 0 is the batch axis; otherwise each request runs alone, and counts as one row.
    pub batched: bool,
    /// Whether keys need no shapes, because no dimension beyond axis 0 varies or each request runs alone.
    pub one_shape: bool,
    /// How requests whose inputs differ in length are padded to share batches; None if they are not padded.
    pub padding: Option<Arc<Padding>>,
    /// The limit beyond which a number keeps its request from sharing a batch; None if there is no such limit.
    pub bound: Option<Magnitude>,
    pub max_rows: usize,
    pub max_send: usize,
    pub format: Format,
    /// The code of a full queue, and its text with `{}` for the reason.
    pub full: (u8, String),
    pub counter: Counter,
    /// The size of the last answer, in bytes per row.
    pub answer_row: Arc<AtomicUsize>,
}

/// A selection of a signature's outputs, as a set of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice(NonZeroU64);

impl Choice {
    /// Whether the output with this number is selected.
    pub fn has(self, number: usize) -> bool {
        number < u64::BITS as usize && self.0.get() >> number & 1 == 1
    }
}

/// The error if no selection can be made: the signature has more than 64 outputs, or the request wants none.
pub struct NoChoice;

/// Counts calls in the metrics, which Python keeps, and turns an exception into the error of a call.
#[derive(Clone)]
pub struct Counter {
    /// The upper bounds of the latency buckets in microseconds, without the last one.
    pub bounds: Vec<f64>,
    pub answered: Arc<Py<PyAny>>,
    pub failed: Arc<Py<PyAny>>,
    /// Called with the number of rows of each answered call, if they are counted.
    pub rows: Option<Arc<Py<PyAny>>>,
}

/// The number of latencies in each bucket, and their sum in microseconds.
pub type Tally = (Vec<(usize, usize)>, f64);

impl Signature {
    /// The key that two requests must have in common to share a batch. None if the request must run alone, which is
    /// left to Python.
    ///
    /// `inner` has the dimensions beyond axis 0 of each input. `copy` writes the elements of one input, given its
    /// number; each input has `rows` rows.
    pub fn key<'a>(
        &self,
        rows: usize,
        inner: impl Iterator<Item = &'a [usize]> + Clone,
        copy: impl Fn(usize, &mut [u8]),
        choice: Option<Choice>,
    ) -> Option<Key> {
        if self.bound.is_some_and(|bound| !self.is_within(bound, rows, inner.clone(), &copy)) {
            return None;
        }
        let shapes = || if self.one_shape { Vec::new() } else { self.shapes(rows, inner.collect(), copy) };
        Some(match choice {
            None if self.one_shape => Key::Any,
            None => Key::Shapes(shapes()),
            Some(Choice(bits)) => Key::Chosen(bits.get(), shapes()),
        })
    }

    fn is_within<'a>(
        &self,
        bound: Magnitude,
        rows: usize,
        inner: impl Iterator<Item = &'a [usize]> + Clone,
        copy: impl Fn(usize, &mut [u8]),
    ) -> bool {
        if rows.saturating_mul(self.row_bytes(inner.clone())) > COMPARED {
            return false;
        }
        let mut elements = Vec::new();
        let elements_hold = |(number, (input, inner)): (usize, (&Input, &[usize]))| {
            elements.resize(rows * inner.iter().product::<usize>() * input.dtype.size(), 0);
            copy(number, &mut elements);
            bound.holds(input.dtype, &elements)
        };
        let inputs = self.inputs.iter().zip(inner).enumerate();
        inputs.filter(|(_, (input, _))| Magnitude::limits(input.dtype)).all(elements_hold)
    }

    /// The shapes of the inputs as part of a key.
    fn shapes(&self, rows: usize, inner: Vec<&[usize]>, copy: impl Fn(usize, &mut [u8])) -> Vec<usize> {
        match self.padding.as_ref().and_then(|padding| padding.shapes(rows, &inner, copy)) {
            // Python's keys begin with `()` if tasks are padded.
            Some(shapes) => std::iter::once(0).chain(shapes.iter().flat_map(|own| flat(own))).collect(),
            None => inner.into_iter().flat_map(flat).collect(),
        }
    }

    /// Selects the outputs that `wants` accepts, given their numbers and aliases. None means all outputs.
    pub fn choose(&self, wants: impl Fn(usize, &str) -> bool) -> Result<Option<Choice>, NoChoice> {
        if self.outputs.len() > u64::BITS as usize {
            return Err(NoChoice);
        }
        let wanted = self.outputs.iter().enumerate().filter(|(number, alias)| wants(*number, alias));
        let bits = wanted.fold(0, |bits: u64, (number, _)| bits | 1 << number);
        let chosen = NonZeroU64::new(bits).ok_or(NoChoice)?;
        Ok((bits.count_ones() as usize != self.outputs.len()).then_some(Choice(chosen)))
    }

    /// The aliases of the selected outputs, in the signature's order.
    pub fn chosen(&self, choice: Choice) -> impl Iterator<Item = &str> {
        self.outputs.iter().enumerate().filter(move |(number, _)| choice.has(*number)).map(|(_, alias)| &**alias)
    }

    /// The number of bytes that one row of a request takes in a batch; `inner` as for `key`.
    pub fn row_bytes<'a>(&self, inner: impl Iterator<Item = &'a [usize]>) -> usize {
        self.inputs.iter().zip(inner).map(|(input, inner)| inner.iter().product::<usize>() * input.dtype.size()).sum()
    }

    /// The maximum number of rows of a request; None if axis 0 is not the batch axis.
    pub fn rows(&self) -> Option<usize> {
        self.batched.then_some(self.max_rows)
    }

    /// Estimates the memory, in bytes, that an answer with this many rows takes until it is encoded; 0 before the first
    /// answer.
    pub fn expected_answer(&self, rows: usize) -> usize {
        self.answer_row.load(Ordering::Relaxed).saturating_mul(rows).saturating_mul(ANSWER_COPIES)
    }

    /// Records the size of an answer.
    pub fn answered_with(&self, bytes: usize, rows: usize) {
        let row = bytes / rows.max(1);
        // Storing even the same number would invalidate the cache line of the thread that reads it for every call.
        if self.answer_row.load(Ordering::Relaxed) != row {
            self.answer_row.store(row, Ordering::Relaxed);
        }
    }

    /// The status of a call that found the queue full. `named`, the reason, replaces the braces. If the call would have
    /// missed an objective, `missed` says which one, and is appended unless the text contains it already.
    pub fn full(&self, named: &str, missed: Option<&str>) -> Status {
        let text = self.full.1.replace("{}", named);
        match missed.filter(|missed| !text.contains(missed)) {
            Some(missed) => Status::new(self.full.0, format!("{text}: {missed}")),
            None => Status::new(self.full.0, text),
        }
    }
}

/// A shape as part of a key.
fn flat(shape: &[usize]) -> impl Iterator<Item = usize> {
    std::iter::once(shape.len()).chain(shape.iter().copied())
}

impl Counter {
    /// `failed` makes a code and a text from an exception.
    pub fn new(bounds: Vec<f64>, answered: Py<PyAny>, failed: Py<PyAny>) -> Self {
        Self { bounds, answered: Arc::new(answered), failed: Arc::new(failed), rows: None }
    }

    /// Counts calls that ended with an answer: their rows, and their durations.
    pub fn answered(&self, py: Python<'_>, calls: impl Iterator<Item = (usize, f64)> + Clone) -> PyResult<()> {
        let rows = if self.rows.is_some() { calls.clone().map(|(rows, _)| rows).collect() } else { Vec::new() };
        self.add_answered(py, self.tally(calls.map(|(_, seconds)| seconds)), rows)
    }

    /// Counts calls that ended with an answer, and their rows, if they are counted.
    pub fn add_answered(&self, py: Python<'_>, tally: Tally, rows: Vec<usize>) -> PyResult<()> {
        if let Some(count) = &self.rows {
            count.bind(py).call1((rows,))?;
        }
        self.answered.bind(py).call1((tally,)).map(drop)
    }

    /// Counts calls that ended with this error, and returns how they end.
    pub fn failed(
        &self,
        py: Python<'_>,
        error: &Bound<'_, PyAny>,
        seconds: impl Iterator<Item = f64>,
    ) -> PyResult<Status> {
        let (tally, total) = self.tally(seconds);
        let (code, text): (u8, String) = self.failed.bind(py).call1((error, tally, total))?.extract()?;
        Ok(Status::new(code, text))
    }

    /// The number of latencies in each bucket, and their sum in microseconds.
    fn tally(&self, seconds: impl Iterator<Item = f64>) -> Tally {
        let mut tally = Tally::default();
        seconds.for_each(|each| self.add(each, &mut tally));
        tally
    }

    /// Adds a call that took this many seconds.
    pub fn add(&self, seconds: f64, (counts, total): &mut Tally) {
        let micros = seconds * 1e6;
        *total += micros;
        let bucket = self.bounds.partition_point(|bound| *bound < micros);
        match counts.iter_mut().find(|(known, _)| *known == bucket) {
            Some((_, count)) => *count += 1,
            None => counts.push((bucket, 1)),
        }
    }
}

//! One signature of one version, as plain requests know it: what they are checked against, and how they are counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::prelude::*;

use crate::grpc::Status;
use crate::predict::{Format, Input};
use crate::queue::Key;

/// What a plain request of one signature is checked against, and what its answer looks like.
#[derive(Clone)]
pub struct Signature {
    pub inputs: Vec<Input>,
    /// Whether no dimension beyond axis 0 varies.
    pub one_shape: bool,
    pub max_rows: usize,
    pub max_send: usize,
    pub format: Format,
    /// The code, and the text with `{}` for the reason, of a full queue.
    pub full: (u8, String),
    pub counter: Counter,
    /// Bytes of an answer to one row, as the last one was.
    pub answer_row: Arc<AtomicUsize>,
}

/// Counts calls in Python's metrics, and learns from it how those end that fail.
#[derive(Clone)]
pub struct Counter {
    /// Microseconds up to which a latency belongs to each bucket, the last one left out.
    pub bounds: Vec<f64>,
    pub answered: Arc<Py<PyAny>>,
    pub failed: Arc<Py<PyAny>>,
}

impl Signature {
    /// What must be equal for two of its requests to share a batch.
    ///
    /// `inner` are the dimensions beyond axis 0 of each input.
    pub fn key<'a>(&self, inner: impl Iterator<Item = &'a [usize]>) -> Key {
        if self.one_shape {
            return Key::Any;
        }
        Key::Shapes(inner.flat_map(|inner| std::iter::once(inner.len()).chain(inner.iter().copied())).collect())
    }

    /// What one row of a request takes in a batch, in bytes; `inner` as for `key`.
    pub fn row_bytes<'a>(&self, inner: impl Iterator<Item = &'a [usize]>) -> usize {
        self.inputs.iter().zip(inner).map(|(input, inner)| inner.iter().product::<usize>() * input.dtype.size()).sum()
    }

    /// About how many bytes an answer of so many rows will have; 0 before there was one.
    pub fn expected_answer(&self, rows: usize) -> usize {
        self.answer_row.load(Ordering::Relaxed).saturating_mul(rows)
    }

    /// Takes note of how large an answer was.
    pub fn answered_with(&self, bytes: usize, rows: usize) {
        self.answer_row.store(bytes / rows.max(1), Ordering::Relaxed);
    }

    /// How a call ends that found the queue full.
    pub fn full(&self, reason: &str) -> Status {
        Status::new(self.full.0, self.full.1.replace("{}", reason))
    }
}

impl Counter {
    /// `failed` makes a code and a text of an exception.
    pub fn new(bounds: Vec<f64>, answered: Py<PyAny>, failed: Py<PyAny>) -> Self {
        Self { bounds, answered: Arc::new(answered), failed: Arc::new(failed) }
    }

    /// Counts calls that have ended with an answer, by how long they took.
    pub fn answered(&self, py: Python<'_>, seconds: impl Iterator<Item = f64>) -> PyResult<()> {
        self.answered.bind(py).call1((self.tally(seconds),)).map(|_| ())
    }

    /// Counts calls that have ended with this error, and says how they end.
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

    /// How many latencies fall into which bucket, and their sum in microseconds.
    fn tally(&self, seconds: impl Iterator<Item = f64>) -> (Vec<(usize, usize)>, f64) {
        let (mut tally, mut total): (Vec<(usize, usize)>, f64) = (Vec::new(), 0.0);
        for micros in seconds.map(|each| each * 1e6) {
            total += micros;
            let bucket = self.bounds.partition_point(|bound| *bound < micros);
            match tally.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, count)) => *count += 1,
                None => tally.push((bucket, 1)),
            }
        }
        (tally, total)
    }
}

//! The answers of one batch: its outputs, encoded for each task, counted and sent.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use super::padding::{Lengths, Padding, cut};
use super::python;
use super::signature::Signature;
use super::task::NativeTask;
use crate::buffer::Buffer;
use crate::memory;
use crate::predict::Output;
use crate::protobuf::{Dtype, texts};

/// The size, in bytes, up to which the answers of a batch are written into one buffer.
const SHARED: usize = 64 * 1024;

/// The approximate size, in bytes, of an answer without its values.
const ENVELOPE: usize = 128;

/// One output of the backend.
pub struct Array {
    alias: String,
    dtype: Dtype,
    buffer: Buffer,
    whole: bool,
    /// Whether the output has no dimensions. Its buffer then has a single dimension.
    scalar: bool,
    /// Strings: their positions, and the text that contains them.
    strings: Option<(Vec<u8>, Vec<u8>)>,
}

impl Array {
    /// An array, which must have this many rows. If no number is given, as for a single task, it may have any shape.
    ///
    /// Ignores `array.shape`, since the memory is read later by the shape of the buffer.
    pub fn new(
        py: Python<'_>,
        alias: &Bound<'_, PyAny>,
        array: Bound<'_, PyAny>,
        rows: Option<usize>,
    ) -> PyResult<Self> {
        let scalar = rows.is_none() && array.getattr("ndim")?.extract::<usize>()? == 0;
        let buffer =
            Buffer::any(&array).or_else(|_| Buffer::any(&python::names(py)?.contiguous.bind(py).call1((&array,))?))?;
        let strings = if buffer.dtype().is_none() { Some(strings(alias, &array)?) } else { None };
        let dtype = buffer.dtype().unwrap_or(Dtype::String);
        let held = buffer.shape().first();
        if rows.is_some() && held != rows.as_ref() {
            return Err(PyTypeError::new_err(format!("output {alias} has {held:?} rows, expected {rows:?}")));
        }
        let scalar = scalar && buffer.shape() == [1];
        Ok(Self { alias: alias.cast::<PyString>()?.to_string(), dtype, buffer, whole: rows.is_none(), scalar, strings })
    }

    /// The reason why a padded batch's output cannot be cut; None if it can. `longest` has the lengths to which the
    /// batch was padded.
    pub fn misfit(&self, padding: &Padding, longest: &Lengths) -> Option<String> {
        padding.misfit(&self.alias, self.buffer.shape(), longest)
    }

    pub fn output(&self) -> Output<'_> {
        let shape = if self.scalar { &[] } else { self.buffer.shape() };
        let (bytes, text) = match &self.strings {
            Some((places, text)) => (places.as_slice(), text.as_slice()),
            None => (self.buffer.bytes(), &[][..]),
        };
        Output { alias: &self.alias, dtype: self.dtype, shape, bytes, text, whole: self.whole }
    }
}

/// An array's strings: their positions, and the text that contains them.
fn strings(alias: &Bound<'_, PyAny>, array: &Bound<'_, PyAny>) -> PyResult<(Vec<u8>, Vec<u8>)> {
    let wrong = || PyTypeError::new_err(format!("output {alias} has a dtype that its signature does not declare"));
    let (mut places, mut text) = (Vec::new(), Vec::new());
    for item in array.call_method0("ravel")?.call_method0("tolist")?.cast::<PyList>()? {
        let put = match (item.cast::<PyString>(), item.cast::<PyBytes>()) {
            (Ok(string), _) => texts::put_text(string.to_str()?.as_bytes(), &mut places, &mut text),
            (_, Ok(bytes)) => texts::put_text(bytes.as_bytes(), &mut places, &mut text),
            _ => return Err(wrong()),
        };
        put.ok_or_else(|| {
            PyValueError::new_err(format!(
                "output {alias} has strings of more than 4 GiB, or more than there is memory for"
            ))
        })?;
    }
    Ok((places, text))
}

/// The answers of one batch, which are delivered like a single task's.
#[pyclass(frozen, module = "headrace_native")]
pub struct Answers {
    tasks: Mutex<Vec<NativeTask>>,
}

#[pymethods]
impl Answers {
    /// Counts the answers before it sends them, so that a caller who has an answer finds it in the metrics.
    fn deliver(&self, py: Python<'_>, _tasks: &Bound<'_, PyAny>) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.retain_mut(|task| task.call.claim());
        count(py, &tasks);
        py.detach(|| tasks.into_iter().for_each(|task| task.call.send()));
    }
}

/// Counts tasks of one signature in the metrics of their protocols.
pub fn count(py: Python<'_>, tasks: &[NativeTask]) {
    let mut counted: Vec<&Arc<Signature>> = Vec::new(); // one for each protocol
    for signature in tasks.iter().map(|task| &task.signature) {
        if counted.iter().any(|known| Arc::ptr_eq(known, signature)) {
            continue;
        }
        counted.push(signature);
        let own = tasks.iter().filter(|task| Arc::ptr_eq(&task.signature, signature));
        if let Err(error) =
            signature.counter.answered(py, own.map(|task| (task.call.examples().unwrap_or(task.rows), task.seconds())))
        {
            error.write_unraisable(py, None);
        }
    }
}

/// Encodes a task's rows of a padded batch's outputs, which begin at `start`, cut to the lengths of the task's inputs.
fn encode_cut(task: &mut NativeTask, outputs: &[Output<'_>], start: usize, padding: &Padding, out: &mut BytesMut) {
    let (rows, lengths) = (start..start + task.rows, task.lengths(padding));
    let own: Vec<_> = outputs.iter().map(|output| Own::of(output, &rows, padding, &lengths)).collect();
    let own: Vec<_> = own.iter().zip(outputs).map(|(own, output)| own.output(output)).collect();
    task.encode(&own, 0, out);
}

/// A task's part of an output, without padding.
struct Own<'a> {
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl<'a> Own<'a> {
    fn of(output: &Output<'a>, rows: &Range<usize>, padding: &Padding, lengths: &Lengths) -> Self {
        let size = output.dtype.size();
        let mut wide = output.shape.to_vec();
        wide[0] = rows.len();
        let row = wide[1..].iter().product::<usize>() * size;
        let bytes = &output.bytes[rows.start * row..rows.end * row];
        let Some(shape) = padding.cut_shape(output.alias, &wide, lengths) else {
            return Self { shape: wide, bytes: Cow::Borrowed(bytes) };
        };
        let mut own = memory::vec(shape.iter().product::<usize>() * size);
        cut(bytes, &wide, &shape, size, &mut own);
        Self { shape, bytes: Cow::Owned(own) }
    }

    fn output<'b>(&'b self, output: &Output<'b>) -> Output<'b> {
        Output { shape: &self.shape, bytes: &self.bytes, ..output.clone() }
    }
}

/// A buffer for the answers to this many tasks, which will be made from these outputs.
pub fn buffer_for(outputs: &[Output<'_>], tasks: usize) -> BytesMut {
    // A client that does not read its answer keeps all bytes alive that were written together with it.
    let values: usize = outputs.iter().map(|output| output.bytes.len()).sum();
    BytesMut::with_capacity(SHARED.min(values + ENVELOPE * tasks))
}

impl Answers {
    /// Encodes every task's rows of the arrays, from the position given with the task, without the batch's padding.
    pub fn of(mut tasks: Vec<(usize, NativeTask)>, arrays: &[Array], padding: Option<&Padding>) -> Self {
        let outputs: Vec<_> = arrays.iter().map(Array::output).collect();
        let mut out = buffer_for(&outputs, tasks.len());
        for (start, task) in &mut tasks {
            match padding {
                None => task.encode(&outputs, *start, &mut out),
                Some(padding) => encode_cut(task, &outputs, *start, padding, &mut out),
            }
        }
        Self { tasks: Mutex::new(tasks.into_iter().map(|(_, task)| task).collect()) }
    }
}

//! Tasks that leave the queue together: joined straight from received bytes, and answered straight from outputs.

use std::iter::once;
use std::sync::Arc;

use bytes::BytesMut;
use parking_lot::Mutex;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PySlice, PyString, PyTuple};

use crate::bridge::python;
use crate::bridge::queue::Lane;
use crate::predict::{Answer, Output, Route, Task};
use crate::protobuf::tensor::Dtype;

const SHARED: usize = 64 * 1024;

/// About what an answer has beside its values.
const ENVELOPE: usize = 128;

/// A batch that holds at least one task that was decoded here; those come first, Python's behind them.
#[pyclass(frozen, module = "headrace_native")]
pub struct Batch {
    native: Mutex<Vec<Task>>,
    python: Py<PyList>,
    lane: Lane,
    native_rows: usize,
    #[pyo3(get)]
    rows: usize,
    #[pyo3(get)]
    padded: usize,
    #[pyo3(get)]
    arrivals: Vec<f64>,
    #[pyo3(get)]
    sizes: Vec<usize>,
}

#[pymethods]
impl Batch {
    fn __len__(&self) -> usize {
        self.sizes.len()
    }

    /// One array per input, of `padded` rows.
    fn join<'py>(&self, py: Python<'py>, empty: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let native = Lent::of(&self.native);
        let joined = PyDict::new(py);
        let first = native.tasks.first().ok_or_else(|| PyTypeError::new_err("the batch has been split already"))?;
        for (number, (alias, dtype)) in first.route.get().aliases().enumerate() {
            let mut shape = vec![self.padded];
            shape.extend(first.inner(number));
            let array = empty.call1((PyTuple::new(py, &shape)?, python::dtype(py, dtype)?))?;
            let buffer = Buffer::to_join_in(&array, &shape, dtype)?;
            python::sheltered(|| py.detach(|| self.join_native(&native.tasks, number, dtype, buffer.bytes_mut())))?;
            self.join_python(py, alias, &array)?;
            python::sheltered(|| py.detach(|| self.pad(&native.tasks, buffer.bytes_mut())))?;
            joined.set_item(alias, array)?;
        }
        Ok(joined)
    }

    /// Encodes what the tasks that were decoded here are answered; returns these answers as one, and Python's tasks that
    /// have all their outputs.
    fn split<'py>(
        &self,
        py: Python<'py>,
        outputs: &Bound<'py, PyDict>,
        lock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let arrays = outputs.iter().map(|(alias, array)| Array::new(py, &alias, array, self.padded));
        let arrays = arrays.collect::<PyResult<Vec<_>>>().or_else(|error| {
            // What Python finds, it says as TF Serving does.
            python::CHECK_OUTPUTS.call(py, (outputs, self.padded)).and(Err(error))
        })?;
        let native = std::mem::take(&mut *self.native.lock());
        let route = native.first().map(|task| task.route.clone());
        let answers = python::sheltered(|| py.detach(|| answer(native, &arrays)))?;
        let ended = PyList::empty(py);
        ended.append(Bound::new(py, Answers { route, answers: Mutex::new(answers) })?)?;
        let mut offset = self.native_rows;
        for piece in self.python.bind(py) {
            let end = offset + piece.getattr("rows")?.extract::<usize>()?;
            let part = python::ROWS_BETWEEN.call(py, (outputs, offset, end))?;
            let all = python::GIVE.call(py, (&piece, part, lock))?;
            if all.is_truthy()? {
                ended.append(piece.getattr("task")?)?;
            }
            offset = end;
        }
        Ok(ended)
    }

    /// Gives the error to every task, and returns those of Python.
    fn fail<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
        lock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        for task in std::mem::take(&mut *self.native.lock()) {
            let status = task.route.get().failed(py, error, once(task.seconds()))?;
            task.refuse(&status);
        }
        let rest = python::batch(py, self.python.bind(py), self.lane.options(py).bind(py), self.lane.batched())?;
        rest.call_method1("fail", (error, lock))
    }

    /// The same tasks in two batches.
    fn halves<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let mut first = std::mem::take(&mut *self.native.lock());
        let pieces = self.python.bind(py);
        let middle = self.sizes.len() / 2;
        let second = first.split_off(middle.min(first.len()));
        let cut = middle - first.len();
        let (early, late) = self.arrivals[..first.len() + second.len()].split_at(first.len());
        let half =
            |native, low, high, arrivals: &[f64]| self.half(py, native, pieces.get_slice(low, high), arrivals.to_vec());
        Ok((half(first, 0, cut, early)?, half(second, cut, pieces.len(), late)?))
    }

    /// Those of its tasks that are Python's.
    #[getter]
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.python.bind(py).iter().map(|piece| piece.getattr("task")).collect()
    }
}

impl Batch {
    /// `arrivals` are those of `native`, in their order.
    pub fn new(native: Vec<Task>, pieces: Bound<'_, PyList>, lane: Lane, mut arrivals: Vec<f64>) -> PyResult<Self> {
        let native_rows = native.iter().map(|task| task.rows).sum::<usize>();
        let mut sizes: Vec<_> = native.iter().map(|task| task.rows).collect();
        let mut rows = native_rows;
        for piece in &pieces {
            let task = piece.getattr("task")?;
            rows += piece.getattr("rows")?.extract::<usize>()?;
            sizes.push(task.getattr("rows")?.extract()?);
            arrivals.push(task.getattr("arrived")?.extract()?);
        }
        let padded = lane.padded_rows(rows);
        if rows == 0 || padded < rows {
            return Err(PyValueError::new_err(format!("{rows} rows cannot be padded to {padded}")));
        }
        let native = Mutex::new(native);
        Ok(Self { native, python: pieces.unbind(), lane, native_rows, rows, padded, arrivals, sizes })
    }

    fn half<'py>(
        &self,
        py: Python<'py>,
        native: Vec<Task>,
        pieces: Bound<'py, PyList>,
        arrivals: Vec<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if native.is_empty() {
            return python::batch(py, &pieces, self.lane.options(py).bind(py), self.lane.batched());
        }
        Ok(Bound::new(py, Self::new(native, pieces, self.lane.clone(), arrivals)?)?.into_any())
    }

    fn join_native(&self, native: &[Task], input: usize, dtype: Dtype, joined: &mut [u8]) {
        let row = joined.len() / self.padded;
        let mut rest = joined;
        for task in native {
            let (own, others) = rest.split_at_mut(task.rows * row);
            task.copy_to(input, dtype, own);
            rest = others;
        }
    }

    fn join_python(&self, py: Python<'_>, alias: &str, joined: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut offset = self.native_rows;
        for piece in self.python.bind(py) {
            let (start, stop) = (piece.getattr("start")?.extract()?, piece.getattr("stop")?.extract()?);
            let inputs = piece.getattr("task")?.getattr("inputs")?;
            let rows = inputs.get_item(alias)?.get_item(PySlice::new(py, start, stop, 1))?;
            let end = offset + (stop - start) as usize;
            joined.set_item(PySlice::new(py, offset as isize, end as isize, 1), rows)?;
            offset = end;
        }
        Ok(())
    }

    /// TF Serving: repeats the last task's first row. With Python's tasks behind, any row does: the last real one.
    fn pad(&self, native: &[Task], joined: &mut [u8]) {
        let row = joined.len() / self.padded;
        let source = match native.last() {
            Some(last) if self.native_rows == self.rows => self.rows - last.rows,
            _ => self.rows - 1,
        };
        for target in self.rows..self.padded {
            joined.copy_within(source * row..(source + 1) * row, target * row);
        }
    }
}

/// A batch's tasks, out of their place for as long as Python's code may run, so that no lock is held meanwhile: who
/// asks for them again finds none.
struct Lent<'a> {
    tasks: Vec<Task>,
    place: &'a Mutex<Vec<Task>>,
}

impl<'a> Lent<'a> {
    fn of(place: &'a Mutex<Vec<Task>>) -> Self {
        Self { tasks: std::mem::take(&mut *place.lock()), place }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.place.lock().append(&mut self.tasks);
    }
}

/// An array's memory, held: contiguous, of a known dtype.
struct Buffer {
    raw: PyUntypedBuffer,
}

impl Buffer {
    fn to_join_in(array: &Bound<'_, PyAny>, shape: &[usize], dtype: Dtype) -> PyResult<Self> {
        let buffer = Self::any(array)?;
        if buffer.dtype() != Some(dtype) || buffer.raw.shape() != shape {
            return Err(PyBufferError::new_err("the array to join in is of another dtype or shape"));
        }
        if buffer.raw.readonly() {
            return Err(PyBufferError::new_err("the array to join in is read-only"));
        }
        Ok(buffer)
    }

    fn any(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let raw = PyUntypedBuffer::get(array)?;
        if !raw.is_c_contiguous() {
            return Err(PyBufferError::new_err("the array is not contiguous"));
        }
        Ok(Self { raw })
    }

    fn dtype(&self) -> Option<Dtype> {
        Dtype::of_format(self.raw.format(), self.raw.item_size())
    }

    fn bytes(&self) -> &[u8] {
        if self.raw.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous and exported, so its `len_bytes` bytes stay where they are for as long as
        // `self` lives. An output belongs to the batch thread that holds this: its backend is done with it.
        unsafe { std::slice::from_raw_parts(self.raw.buf_ptr().cast(), self.raw.len_bytes()) }
    }

    #[expect(clippy::mut_from_ref, reason = "the memory is Python's, and `self` only holds it")]
    fn bytes_mut(&self) -> &mut [u8] {
        if self.raw.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: as above, and writable, as `to_join_in` has checked. Whoever made the array lends it to this batch alone
        // until the batch has run, and `join` never holds two of these slices at once.
        unsafe { std::slice::from_raw_parts_mut(self.raw.buf_ptr().cast(), self.raw.len_bytes()) }
    }
}

/// One output of the backend.
struct Array {
    alias: String,
    dtype: Dtype,
    buffer: Buffer,
}

impl Array {
    /// None of the array's own words on its shape is taken: what is read later is its memory.
    fn new(py: Python<'_>, alias: &Bound<'_, PyAny>, array: Bound<'_, PyAny>, rows: usize) -> PyResult<Self> {
        let buffer = Buffer::any(&array).or_else(|_| Buffer::any(&python::CONTIGUOUS.call(py, (&array,))?))?;
        let dtype = buffer.dtype().ok_or_else(|| {
            PyTypeError::new_err(format!("output {alias} is of a dtype that its signature does not declare"))
        })?;
        match buffer.raw.shape().first() {
            Some(held) if *held == rows => {}
            held => return Err(PyTypeError::new_err(format!("output {alias} holds {held:?} rows, expected {rows}"))),
        }
        Ok(Self { alias: alias.cast::<PyString>()?.to_string(), dtype, buffer })
    }

    fn output(&self) -> Output<'_> {
        let inner = self.buffer.raw.shape().get(1..).unwrap_or_default();
        Output { alias: &self.alias, dtype: self.dtype, inner, bytes: self.buffer.bytes() }
    }
}

/// The answers of one batch, which are delivered as if they were one task's.
#[pyclass(frozen, module = "headrace_native")]
pub struct Answers {
    route: Option<Arc<Py<Route>>>,
    answers: Mutex<Vec<Answer>>,
}

#[pymethods]
impl Answers {
    /// Counts them, so that whoever has an answer finds it counted, and sends them.
    fn deliver(&self, py: Python<'_>, _tasks: &Bound<'_, PyAny>) {
        let answers = std::mem::take(&mut *self.answers.lock());
        if let Some(route) = &self.route
            && let Err(error) = route.get().answered(py, answers.iter().map(Answer::seconds))
        {
            error.write_unraisable(py, None);
        }
        py.detach(|| answers.into_iter().for_each(Answer::send));
    }
}

/// Encodes every task's rows.
fn answer(tasks: Vec<Task>, arrays: &[Array]) -> Vec<Answer> {
    let outputs: Vec<_> = arrays.iter().map(Array::output).collect();
    // A caller that does not read its answer keeps all of the bytes that were written with it.
    let values: usize = outputs.iter().map(|output| output.bytes.len()).sum();
    let mut out = BytesMut::with_capacity(SHARED.min(values + ENVELOPE * tasks.len()));
    let mut start = 0;
    let mut answers = Vec::with_capacity(tasks.len());
    for task in tasks {
        let stop = start + task.rows;
        answers.push(task.answer(&outputs, start, &mut out));
        start = stop;
    }
    answers
}

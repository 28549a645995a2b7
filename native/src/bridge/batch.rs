//! Tasks that leave the queue together: their received bytes are joined without Python, and the outputs are encoded
//! directly as their clients' answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PySlice, PyTuple};

use super::answers::{Answers, Array};
use super::lane::Lane;
use super::padding::{Lengths, Padding};
use super::python;
use super::task::NativeTask;
use crate::memory;
use crate::predict::Input;
use crate::protobuf::Dtype;

/// A batch with at least one task that was decoded in Rust. Such tasks come first, followed by Python's.
#[pyclass(frozen, module = "headrace_native")]
pub struct Batch {
    native: Mutex<Vec<NativeTask>>,
    python: Py<PyList>,
    lane: Lane,
    native_rows: usize,
    /// The number of rows of the last piece that has any: padding repeats the first of them.
    last: usize,
    /// The padding of the batch's tasks, and the lengths to which they are padded; None if all have one shape.
    padded_to: Option<(Arc<Padding>, Lengths)>,
    #[pyo3(get)]
    rows: usize,
    #[pyo3(get)]
    padded: usize,
    /// The time at which each of its traced tasks arrived, on the queue's clock.
    traced: Vec<f64>,
    /// The time at which each of its tasks arrived, on the queue's clock.
    arrivals: Vec<f64>,
    /// The number of rows of each of its tasks.
    sizes: Vec<usize>,
}

#[pymethods]
impl Batch {
    #[classattr]
    #[pyo3(name = "is_series")]
    const IS_SERIES: bool = false;

    fn __len__(&self) -> usize {
        self.sizes.len()
    }

    /// Joins each input of the tasks into an array with `padded` rows.
    fn join<'py>(&self, py: Python<'py>, empty: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
        let native = Borrowed::of(&self.native);
        let joined = PyDict::new(py);
        let first = native.tasks.first().ok_or_else(|| PyTypeError::new_err("the batch has been split already"))?;
        let signature = first.signature.clone();
        for (number, (alias, dtype)) in signature.inputs.iter().map(Input::named).enumerate() {
            let mut shape = if signature.batched { vec![self.padded] } else { Vec::new() };
            shape.extend(self.inner(number, first.call.inner(number)));
            let array = if dtype == Dtype::String {
                join_strings(&native.tasks, number, PyTuple::new(py, &shape)?)?
            } else {
                let (array, buffer) = python::array_to_join_in(py, empty, &shape, dtype)?;
                python::catch_panic(|| {
                    py.detach(|| self.join_native(&native.tasks, (number, dtype), &shape, buffer.bytes_mut()))
                })?;
                array
            };
            self.join_python(py, alias, &array)?;
            if self.padded > self.rows {
                python::names(py)?.pad.call1(py, (&array, self.rows, self.last))?;
            }
            joined.set_item(alias, array)?;
        }
        Ok(joined)
    }

    /// Encodes the answers of the tasks that were decoded in Rust: each gets its rows, or all rows if it is the only
    /// task of the batch. Returns these answers as one object, and Python's tasks that have all their outputs.
    fn split<'py>(
        &self,
        py: Python<'py>,
        outputs: &Bound<'py, PyDict>,
        lock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyList>> {
        let expected = if self.lone() { None } else { Some(self.padded) };
        let arrays = outputs.iter().map(|(alias, array)| Array::new(py, &alias, array, expected));
        let arrays = arrays.collect::<PyResult<Vec<_>>>().or_else(|error| {
            // Python checks the outputs again: if it finds the error, too, its exception has TF Serving's text.
            python::names(py)?.check_outputs.call1(py, (outputs, self.padded)).and(Err(error))
        })?;
        if let Some((padding, longest)) = &self.padded_to
            && let Some(misfit) = arrays.iter().find_map(|array| array.misfit(padding, longest))
        {
            return Err(PyValueError::new_err(misfit)); // the batch still has its tasks, and can be split in halves
        }
        let native = self.fitting(py, outputs, &arrays)?;
        let padding = self.padded_to.as_ref().map(|(padding, _)| &**padding);
        let answers = python::catch_panic(|| py.detach(|| Answers::of(native, &arrays, padding)))?;
        let ended = PyList::empty(py);
        ended.append(Bound::new(py, answers)?)?;
        let (names, mut offset) = (python::names(py)?, self.native_rows);
        for piece in self.python.bind(py) {
            let end = offset + piece.getattr("rows")?.extract::<usize>()?;
            let mut part = names.rows_between.bind(py).call1((outputs, offset, end))?;
            if self.padded_to.is_some() {
                let task = piece.getattr("task")?;
                let padding = task.getattr("padding")?;
                let lengths = padding.call_method1("lengths", (task.getattr("inputs")?,))?;
                part = padding.call_method1("cut", (part, lengths))?;
            }
            let all = names.give.bind(py).call1((&piece, part, lock))?;
            if all.is_truthy()? {
                ended.append(piece.getattr("task")?)?;
            }
            offset = end;
        }
        Ok(ended)
    }

    /// Fails every task with the error, and returns the tasks from Python.
    fn fail<'py>(
        &self,
        py: Python<'py>,
        error: &Bound<'py, PyAny>,
        lock: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        for task in std::mem::take(&mut *self.native.lock()) {
            task.fail(py, error)?;
        }
        let rest = python::batch(py, self.python.bind(py), self.lane.options(py).bind(py), self.lane.batched())?;
        rest.call_method1("fail", (error, lock))
    }

    /// Splits the batch into two of half the tasks each.
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

    /// The outputs that its tasks want; None means all.
    #[getter]
    fn choice<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyTuple>>> {
        let native = self.native.lock();
        native.first().map_or(Ok(None), |task| task.chosen(py))
    }

    /// The time at which each task of the batch arrived.
    #[getter]
    fn arrivals<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python::sequence(py, "d", &self.arrivals, f64::to_ne_bytes)
    }

    /// The number of rows of each task in the batch.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        python::sequence(py, "q", &self.sizes, |rows| (rows as i64).to_ne_bytes())
    }

    /// The time at which each traced task of the batch arrived.
    #[getter]
    fn traced<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.traced)
    }

    /// The tasks of the batch that came from Python.
    #[getter]
    fn tasks<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.python.bind(py).iter().map(|piece| piece.getattr("task")).collect()
    }
}

impl Batch {
    /// `arrivals` are the times at which the tasks of `native` arrived, in the same order.
    pub fn new(
        native: Vec<NativeTask>,
        pieces: Bound<'_, PyList>,
        lane: Lane,
        mut arrivals: Vec<f64>,
    ) -> PyResult<Self> {
        let native_rows = native.iter().map(|task| task.rows).sum::<usize>();
        let mut sizes: Vec<_> = native.iter().map(|task| task.rows).collect();
        let traced = native.iter().zip(&arrivals).filter(|(task, _)| task.traced);
        let mut traced: Vec<_> = traced.map(|(_, arrived)| *arrived).collect();
        let (mut rows, mut last) = (native_rows, sizes.last().copied().unwrap_or(0));
        for piece in &pieces {
            let task = piece.getattr("task")?;
            let own = piece.getattr("rows")?.extract::<usize>()?;
            rows += own;
            last = if own > 0 { own } else { last };
            sizes.push(task.getattr("rows")?.extract()?);
            let arrived = task.getattr("arrived")?.extract()?;
            arrivals.push(arrived);
            if task.getattr("traced")?.is_truthy()? {
                traced.push(arrived);
            }
        }
        if rows == 0 {
            return Err(PyValueError::new_err("a batch must have rows"));
        }
        let padded = lane.padded_rows(rows);
        let padded_to = padded_to(&native, &pieces)?;
        let (native, python) = (Mutex::new(native), pieces.unbind());
        Ok(Self { native, python, lane, native_rows, last, padded_to, rows, padded, traced, arrivals, sizes })
    }

    /// An input's dimensions beyond axis 0 in this batch, derived from those of one of its tasks.
    fn inner(&self, input: usize, inner: &[usize]) -> Vec<usize> {
        match &self.padded_to {
            Some((padding, longest)) => padding.replaced(input, inner, longest),
            None => inner.to_vec(),
        }
    }

    /// Whether the batch has only one task, and no rows of padding.
    fn lone(&self) -> bool {
        self.sizes.len() == 1 && self.padded == self.rows
    }

    /// The tasks for which an answer can be made, each with the position of its first row. The other tasks get an
    /// error.
    fn fitting(
        &self,
        py: Python<'_>,
        outputs: &Bound<'_, PyDict>,
        arrays: &[Array],
    ) -> PyResult<Vec<(usize, NativeTask)>> {
        let (parts, whole): (Vec<_>, _) = (arrays.iter().map(Array::output).collect(), self.lone());
        let mut start = 0;
        let mut fitting = Vec::new();
        for task in std::mem::take(&mut *self.native.lock()) {
            let (first, rows) = (start, task.rows);
            start += rows;
            if task.call.fits(&task.signature, &parts, first, rows) {
                fitting.push((first, task));
                continue;
            }
            task.fail_misfit(py, outputs, (!whole).then_some(first..start))?;
        }
        Ok(fitting)
    }

    fn half<'py>(
        &self,
        py: Python<'py>,
        native: Vec<NativeTask>,
        pieces: Bound<'py, PyList>,
        arrivals: Vec<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if native.is_empty() {
            return python::batch(py, &pieces, self.lane.options(py).bind(py), self.lane.batched());
        }
        Ok(Bound::new(py, Self::new(native, pieces, self.lane.clone(), arrivals)?)?.into_any())
    }

    fn join_native(&self, native: &[NativeTask], (input, dtype): (usize, Dtype), shape: &[usize], joined: &mut [u8]) {
        let row = joined.len() / self.padded;
        let mut rest = joined;
        for task in native {
            let (place, others) = rest.split_at_mut(task.rows * row);
            let inner = task.call.inner(input);
            match &self.padded_to {
                Some((padding, _)) if inner != &shape[1..] => {
                    let (wide, own) = (with_rows(task.rows, &shape[1..]), with_rows(task.rows, inner));
                    let size = own.iter().product::<usize>() * dtype.size();
                    let mut elements = memory::vec(size);
                    elements.resize(size, 0);
                    task.call.copy_to(input, dtype, &mut elements);
                    padding.fill(input, place, &wide, &elements, &own);
                }
                _ => task.call.copy_to(input, dtype, place),
            }
            rest = others;
        }
    }

    fn join_python(&self, py: Python<'_>, alias: &str, joined: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut offset = self.native_rows;
        for piece in self.python.bind(py) {
            let (start, stop) = (piece.getattr("start")?.extract()?, piece.getattr("stop")?.extract()?);
            let task = piece.getattr("task")?;
            let rows = task.getattr("inputs")?.get_item(alias)?.get_item(PySlice::new(py, start, stop, 1))?;
            let end = offset + (stop - start) as usize;
            let place = PySlice::new(py, offset as isize, end as isize, 1);
            if self.padded_to.is_some() {
                let (place, padding) = (joined.get_item(place)?, task.getattr("padding")?);
                python::names(py)?.pad_into.call1(py, (place, (rows,), alias, padding))?;
            } else {
                joined.set_item(place, rows)?;
            }
            offset = end;
        }
        Ok(())
    }
}

/// The padding of tasks that leave the queue together, and the lengths to which they are padded; None if all have one
/// shape. `pieces` are those of the tasks from Python.
fn padded_to(native: &[NativeTask], pieces: &Bound<'_, PyList>) -> PyResult<Option<(Arc<Padding>, Lengths)>> {
    let Some(padding) = native.first().and_then(|task| task.signature.padding.clone()) else { return Ok(None) };
    let mut lengths: Vec<_> = native.iter().map(|task| task.lengths(&padding)).collect();
    for piece in pieces {
        let task = piece.getattr("task")?;
        let own = task.getattr("padding")?.call_method1("lengths", (task.getattr("inputs")?,))?;
        lengths.push(own.extract::<BTreeMap<usize, usize>>()?.into_values().collect());
    }
    let mut longest = lengths[0].clone();
    for own in &lengths {
        longest.iter_mut().zip(own).for_each(|(longest, own)| *longest = *own.max(longest));
    }
    Ok(lengths.iter().any(|own| *own != longest).then_some((padding, longest)))
}

fn with_rows(rows: usize, inner: &[usize]) -> Vec<usize> {
    std::iter::once(rows).chain(inner.iter().copied()).collect()
}

/// Joins the strings of one input of all tasks into an array of this shape, which may have room for more strings.
pub fn join_strings<'py>(
    native: &[NativeTask],
    input: usize,
    shape: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = shape.py();
    let mut strings = Vec::new();
    for task in native {
        python::catch_panic(|| task.call.strings(input, &mut |string| strings.push(PyBytes::new(py, string))))?;
    }
    python::names(py)?.string_array.bind(py).call1((PyList::new(py, strings)?, shape))
}

/// A batch's tasks, taken out of their mutex so that it is not locked while Python code runs. Meanwhile, other users of
/// the mutex find no tasks.
struct Borrowed<'a> {
    tasks: Vec<NativeTask>,
    place: &'a Mutex<Vec<NativeTask>>,
}

impl<'a> Borrowed<'a> {
    fn of(place: &'a Mutex<Vec<NativeTask>>) -> Self {
        Self { tasks: std::mem::take(&mut *place.lock()), place }
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        self.place.lock().append(&mut self.tasks);
    }
}

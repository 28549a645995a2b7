//! Tasks that leave the queue together, and that Python runs one by one, as for a model without a batch axis that needs
//! the interpreter. Each is answered within a tenth of a millisecond after its own run, and no other Python code runs
//! between two of them.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::BytesMut;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::answers::{Array, count};
use super::batch::{Batch, join_strings};
use super::lane::Lane;
use super::python;
use super::ready::Ready;
use super::task::{NativeTask, Waiting};
use crate::predict::Input;
use crate::protobuf::Dtype;

/// Values of up to this many bytes are encoded and sent while the interpreter lock is held: releasing it would take
/// longer.
const SMALL: usize = 16 << 10;

/// Tasks that run one by one.
#[pyclass(frozen, module = "headrace_native")]
pub struct Series {
    waiting: Mutex<VecDeque<Waiting>>,
    lane: Lane,
    runs: Mutex<Vec<Run>>,
    failed: Mutex<Option<(NativeTask, f64, f64)>>,
}

/// When a successful run began, when its inputs and its outputs were ready, and when it ended; when its task arrived,
/// and whether the task is traced.
type Run = (f64, f64, f64, f64, f64, bool);

#[pymethods]
impl Series {
    #[classattr]
    #[pyo3(name = "is_series")]
    const IS_SERIES: bool = true;

    /// The number of tasks that have not run.
    fn __len__(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Runs and answers the tasks. If one fails, raises its exception, and keeps the tasks after it.
    fn run(
        &self,
        py: Python<'_>,
        run: &Bound<'_, PyAny>,
        run_choice: Option<&Bound<'_, PyAny>>,
        empty: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let mut ready = Ready::default();
        let mut more = Ok(true);
        while let Ok(true) = more {
            more = self.run_next(py, (run, run_choice), empty, &mut ready);
        }
        ready.send(|tasks| count(py, tasks));
        more.map(drop)
    }

    /// Removes and returns the records of successful runs.
    fn take_runs(&self) -> Vec<Run> {
        std::mem::take(&mut *self.runs.lock())
    }

    /// The task that has failed, as a batch, and when its run began.
    fn failed(&self, py: Python<'_>) -> PyResult<(Batch, f64)> {
        let failed = self.failed.lock().take();
        let (task, came, began) = failed.ok_or_else(|| PyRuntimeError::new_err("no run has failed"))?;
        Ok((self.batch(py, task, came)?, began))
    }

    /// Removes the tasks that have not run, and returns each as a batch of its own.
    fn batches(&self, py: Python<'_>) -> PyResult<Vec<Batch>> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().map(|(task, came)| self.batch(py, task, came)).collect()
    }
}

impl Series {
    pub fn new(waiting: VecDeque<Waiting>, lane: Lane) -> Self {
        Self { waiting: Mutex::new(waiting), lane, runs: Mutex::default(), failed: Mutex::default() }
    }

    fn batch(&self, py: Python<'_>, task: NativeTask, came: f64) -> PyResult<Batch> {
        Batch::new(vec![task], PyList::empty(py), self.lane.clone(), vec![came])
    }

    /// Runs the next task; returns whether there was one.
    fn run_next(
        &self,
        py: Python<'_>,
        runs: (&Bound<'_, PyAny>, Option<&Bound<'_, PyAny>>),
        empty: &Bound<'_, PyAny>,
        ready: &mut Ready,
    ) -> PyResult<bool> {
        let Some((mut task, came)) = self.waiting.lock().pop_front() else { return Ok(false) };
        let (size, began) = (task.size(), Instant::now());
        let computed = compute(py, &task, runs, empty).and_then(|(outputs, joined, computed)| {
            encode(py, &mut task, &outputs, &mut ready.bytes).map(|fits| (outputs, joined, computed, fits))
        });
        let (outputs, joined, computed, fits) = match computed {
            Ok(computed) => computed,
            Err(error) => {
                ready.bytes.clear(); // a part of an answer, if writing it has panicked
                *self.failed.lock() = Some((task, came, self.lane.clock().at(began)));
                return Err(error);
            }
        };
        let (traced, mut answered) = (task.traced, None);
        if fits {
            answered = Some(task);
        } else if let Err(error) = task.fail_misfit(py, &outputs, None) {
            error.write_unraisable(py, None);
        }
        let ended = Instant::now();
        if ready.add(answered, began, ended) {
            ready.send(|tasks| count(py, tasks));
        }
        self.take_note((came, traced), size, [began, joined, computed, ended]);
        Ok(true)
    }

    fn take_note(&self, (came, traced): (f64, bool), size: usize, times: [Instant; 4]) {
        let [began, joined, computed, ended] = times.map(|time| self.lane.clock().at(time));
        self.lane.ran(ended - began, size);
        self.runs.lock().push((began, joined, computed, ended, came, traced));
    }
}

/// The outputs of one task's run, and the times when its inputs and its outputs were ready.
fn compute<'py>(
    py: Python<'py>,
    task: &NativeTask,
    (run, run_choice): (&Bound<'py, PyAny>, Option<&Bound<'py, PyAny>>),
    empty: &Bound<'py, PyAny>,
) -> PyResult<(Bound<'py, PyDict>, Instant, Instant)> {
    let inputs = join(py, task, empty)?;
    let joined = Instant::now();
    let outputs = match task.chosen(py)?.zip(run_choice) {
        None => run.call1((inputs,))?,
        Some((chosen, run_choice)) => run_choice.call1((inputs, chosen))?,
    };
    Ok((outputs.cast_into()?, joined, Instant::now()))
}

/// The inputs of one task as arrays, without padding.
fn join<'py>(py: Python<'py>, task: &NativeTask, empty: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyDict>> {
    let joined = PyDict::new(py);
    for (number, (alias, dtype)) in task.signature.inputs.iter().map(Input::named).enumerate() {
        joined.set_item(alias, join_one(py, task, (number, dtype), empty)?)?;
    }
    Ok(joined)
}

fn join_one<'py>(
    py: Python<'py>,
    task: &NativeTask,
    (number, dtype): (usize, Dtype),
    empty: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let shape = task.call.inner(number);
    if dtype == Dtype::String {
        return join_strings(std::slice::from_ref(task), number, PyTuple::new(py, shape)?);
    }
    let (array, buffer) = python::array_to_join_in(py, empty, shape, dtype)?;
    let bytes = buffer.bytes_mut();
    let is_small = bytes.len() <= SMALL;
    let mut copy = || task.call.copy_to(number, dtype, bytes);
    python::catch_panic(|| if is_small { copy() } else { py.detach(copy) })?;
    drop(buffer);
    Ok(array)
}

/// Encodes a task's answer; returns whether an answer can be made from the outputs.
fn encode(py: Python<'_>, task: &mut NativeTask, outputs: &Bound<'_, PyDict>, out: &mut BytesMut) -> PyResult<bool> {
    let arrays = outputs.iter().map(|(alias, array)| Array::new(py, &alias, array, None));
    let arrays = arrays.collect::<PyResult<Vec<_>>>()?;
    let parts: Vec<_> = arrays.iter().map(Array::output).collect();
    if !task.call.fits(&task.signature, &parts, 0, task.rows) {
        return Ok(false);
    }
    let bytes: usize = parts.iter().map(|output| output.bytes.len() + output.text.len()).sum();
    let mut encode = || task.encode(&parts, 0, out);
    python::catch_panic(|| if bytes <= SMALL { encode() } else { py.detach(encode) })?;
    Ok(true)
}

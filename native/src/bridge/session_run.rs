//! Runs tasks in an ONNX session.

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use pyo3::prelude::*;
use smallvec::SmallVec;

use super::native_inputs::with_inputs;
use super::signature::Choice;
use super::task::Waiting;
use crate::onnx::{OnnxSession, Value};
use crate::predict::Output;

/// A session, and the names of one signature's tensors in it.
pub struct SessionRun {
    session: Py<OnnxSession>,
    /// The names of the inputs in the model, in the signature's order.
    inputs: Vec<CString>,
    /// The alias of each output and its name in the model, in the signature's order.
    outputs: Vec<(String, CString)>,
    /// Called after a run with a large output, with the shapes of the run's inputs.
    grown: Py<PyAny>,
    /// If an output has at least this many bytes, ONNX Runtime's memory is assumed to have grown. Python then runs the
    /// next tasks, and may make ONNX Runtime free that memory first.
    large: usize,
    /// Whether the last run had an output of at least `large` bytes.
    has_grown: AtomicBool,
}

/// The fields of a `SessionRun` as Python passes them; `headrace_native.pyi` describes each.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct SessionFields {
    session: Py<OnnxSession>,
    inputs: Vec<CString>,
    outputs: Vec<(String, CString)>,
    tell: Py<PyAny>,
    grown: Py<PyAny>,
    large: usize,
}

impl SessionRun {
    /// The session that these fields describe, and the function that is told about its runs.
    pub fn new(fields: SessionFields) -> (Self, Py<PyAny>) {
        let SessionFields { session, inputs, outputs, tell, grown, large } = fields;
        (Self { session, inputs, outputs, grown, large, has_grown: AtomicBool::new(false) }, tell)
    }

    /// Whether Python must run the next tasks, because ONNX Runtime's memory has grown. True only once after each run
    /// with a large output.
    pub fn leaves_next(&self) -> bool {
        self.has_grown.load(Ordering::Relaxed) && self.has_grown.swap(false, Ordering::Relaxed)
    }

    /// Whether ONNX Runtime's memory is assumed to have grown because of these outputs.
    pub fn is_large(&self, outputs: &[Output<'_>]) -> bool {
        outputs.iter().any(|output| output.bytes.len() >= self.large)
    }

    /// Tells Python that ONNX Runtime's memory has grown in a run whose inputs had these shapes.
    pub fn grew(&self, shapes: Vec<Vec<usize>>) {
        self.has_grown.store(true, Ordering::Relaxed);
        let tell = |py: Python<'_>| self.grown.bind(py).call1((shapes,)).map(drop);
        Python::try_attach(|py| tell(py).unwrap_or_else(|error| error.write_unraisable(py, None)));
    }

    /// The outputs that the tasks want, and when the inputs had been joined; None if the run failed.
    pub fn compute(&self, tasks: &[Waiting], padded: usize) -> Option<(SmallVec<[Value; 2]>, Instant)> {
        let names: SmallVec<[&CStr; 2]> = self.wanted(choice(tasks)).map(|(_, name)| name.as_c_str()).collect();
        with_inputs(tasks, padded, |feeds| {
            let joined = Instant::now();
            let values = self.session.get().compute((&self.inputs, feeds), &names, None).ok()?;
            Some((values.into_iter().collect::<Option<_>>()?, joined))
        })
    }

    /// The outputs that the tasks want, with these values; `whole` says whether they belong to a single task.
    pub fn outputs<'a>(&'a self, tasks: &[Waiting], values: &'a [Value], whole: bool) -> SmallVec<[Output<'a>; 2]> {
        let output = |((alias, _), value): (&'a (String, CString), &'a Value)| Output {
            alias,
            dtype: value.dtype,
            shape: &value.shape,
            bytes: value.bytes(),
            text: &[],
            whole,
        };
        self.wanted(choice(tasks)).zip(values).map(output).collect()
    }

    /// The outputs of a choice; None means all.
    fn wanted(&self, choice: Option<Choice>) -> impl Iterator<Item = &(String, CString)> {
        let outputs = self.outputs.iter().enumerate();
        outputs.filter(move |(number, _)| choice.is_none_or(|choice| choice.has(*number))).map(|(_, output)| output)
    }
}

/// The choice of outputs, which is the same for all tasks that run together.
fn choice(tasks: &[Waiting]) -> Option<Choice> {
    tasks.first().and_then(|(task, _)| task.choice)
}

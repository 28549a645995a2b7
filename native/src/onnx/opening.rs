//! Sessions that are opened one after the other on a thread of their own, while Python does something else.

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ort_sys::OrtSessionOptions;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::api::{Api, Failure, Owned};
use super::session::{Model, OnnxSession};

/// The size in bytes of the thread's stack: what Python's threads usually have.
const STACK: usize = 8 << 20;

/// Sessions that are opened in the order of their models. Any thread.
#[pyclass(frozen, module = "headrace_native")]
pub struct OnnxOpening(Arc<Opening>);

#[derive(Default)]
struct Opening {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// One for each model that has been tried: None if its session cannot be opened, or has been taken.
    opened: Vec<Option<OnnxSession>>,
    /// Whether no further session will be opened.
    ended: bool,
}

#[pymethods]
impl OnnxOpening {
    /// Starts a thread that opens a session for each model, with a copy of the options of an
    /// `onnxruntime.SessionOptions`. After `seconds`, the thread begins no further session.
    ///
    /// Raises RuntimeError if the options cannot be copied, or the system has no further thread.
    #[new]
    fn new(options: &Bound<'_, PyAny>, models: Vec<Model>, seconds: f64) -> PyResult<Self> {
        let (api, given) = Api::of(options)?;
        let own = Options::copy(api, given)?;
        let end = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let opening = Arc::new(Opening::default());
        let run = {
            let opening = opening.clone();
            move || opening.run(api, &own, &models, end)
        };
        thread::Builder::new().name("open".into()).stack_size(STACK).spawn(run).map_err(PyRuntimeError::new_err)?;
        Ok(Self(opening))
    }

    /// Waits for the session of a model, which the caller now owns; None if it is not opened, or has been taken.
    fn take(&self, py: Python<'_>, index: usize) -> Option<OnnxSession> {
        py.detach(|| self.0.take(index))
    }
}

impl Drop for OnnxOpening {
    /// Makes the thread begin no further session.
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Opening {
    fn run(&self, api: Api, options: &Options, models: &[Model], end: Instant) {
        for model in models {
            if self.progress.lock().unwrap().ended || Instant::now() >= end {
                break;
            }
            let session = OnnxSession::open(api, options.0.as_ptr(), model).ok();
            self.progress.lock().unwrap().opened.push(session);
            self.changed.notify_all();
        }
        self.end();
    }

    fn take(&self, index: usize) -> Option<OnnxSession> {
        let progress = self.progress.lock().unwrap();
        let waits = |progress: &mut Progress| progress.opened.len() <= index && !progress.ended;
        let mut progress = self.changed.wait_while(progress, waits).unwrap();
        progress.opened.get_mut(index)?.take()
    }

    fn end(&self) {
        self.progress.lock().unwrap().ended = true;
        self.changed.notify_all();
    }
}

/// Options that belong to the thread, so that Python may free its own.
struct Options(Owned<OrtSessionOptions>);

// SAFETY: only one thread uses them at a time.
unsafe impl Send for Options {}

impl Options {
    fn copy(api: Api, given: *const OrtSessionOptions) -> Result<Self, Failure> {
        // SAFETY: the options are valid, since Python keeps them during the call.
        let own = api.pointer(|api, out| unsafe { (api.CloneSessionOptions)(given, out) })?;
        Ok(Self(Owned::new(own, api.0.ReleaseSessionOptions)))
    }
}

//! Options of one run: a subset of `onnxruntime.RunOptions`.

use std::ffi::CString;

use ort_sys::OrtRunOptions;
use pyo3::prelude::*;

use super::api::{Api, Failure, Owned};

/// Options of one run.
#[pyclass(frozen, module = "headrace_native")]
pub struct OnnxRunOptions {
    api: Api,
    options: Owned<OrtRunOptions>,
}

// SAFETY: options are set before the run; ending a run sets a flag that ONNX Runtime reads on other threads.
unsafe impl Send for OnnxRunOptions {}
// SAFETY: as above.
unsafe impl Sync for OnnxRunOptions {}

impl OnnxRunOptions {
    pub fn new(api: Api) -> Result<Self, Failure> {
        // SAFETY: the function only creates an object.
        let options = api.pointer(|api, out| unsafe { (api.CreateRunOptions)(out) })?;
        Ok(Self { api, options: Owned::new(options, api.0.ReleaseRunOptions) })
    }

    pub fn as_ptr(&self) -> *const OrtRunOptions {
        self.options.as_ptr()
    }
}

#[pymethods]
impl OnnxRunOptions {
    /// Whether the run must end before its next operator. May be set during the run.
    #[setter]
    fn set_terminate(&self, terminate: bool) -> PyResult<()> {
        // SAFETY: the options are valid; the flag may be set on any thread.
        let status = unsafe {
            if terminate {
                (self.api.0.RunOptionsSetTerminate)(self.options.as_ptr())
            } else {
                (self.api.0.RunOptionsUnsetTerminate)(self.options.as_ptr())
            }
        };
        Ok(self.api.check(status)?)
    }

    #[setter]
    fn set_log_severity_level(&self, level: i32) -> PyResult<()> {
        // SAFETY: the options are valid.
        let status = unsafe { (self.api.0.RunOptionsSetRunLogSeverityLevel)(self.options.as_ptr(), level) };
        Ok(self.api.check(status)?)
    }

    fn add_run_config_entry(&self, key: CString, value: CString) -> PyResult<()> {
        // SAFETY: the options are valid, and both strings are copied.
        let status = unsafe { (self.api.0.AddRunConfigEntry)(self.options.as_ptr(), key.as_ptr(), value.as_ptr()) };
        Ok(self.api.check(status)?)
    }
}

//! ONNX Runtime's C API.
//!
//! The module `onnxruntime` contains the runtime but exports no symbol of the C API. It passes the API to libraries of
//! custom operators: `SessionOptions.register_custom_ops_library` calls a library's function `RegisterCustomOps` with
//! the options and the API. So this library registers itself, without any operators.

use std::cell::Cell;
use std::ffi::CStr;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::{fmt, fs, mem};

use ort_sys::{OrtApi, OrtApiBase, OrtSessionOptions, OrtStatus, OrtStatusPtr};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// The version of the API that is used here. ONNX Runtime added it in release 1.17, and still offers old versions.
const VERSION: u32 = 17;

/// The names of ONNX Runtime's error codes, as in the exceptions of `onnxruntime`.
const NAMES: [&str; 15] = [
    "SUCCESS",
    "FAIL",
    "INVALID_ARGUMENT",
    "NO_SUCHFILE",
    "NO_MODEL",
    "ENGINE_ERROR",
    "RUNTIME_EXCEPTION",
    "INVALID_PROTOBUF",
    "MODEL_LOADED",
    "NOT_IMPLEMENTED",
    "INVALID_GRAPH",
    "EP_FAIL",
    "MODEL_LOAD_CANCELED",
    "MODEL_REQUIRES_COMPILATION",
    "NOT_FOUND",
];

thread_local! {
    static PASSED: Cell<Option<Passed>> = const { Cell::new(None) };
}

/// What ONNX Runtime has passed to `RegisterCustomOps`.
#[derive(Clone, Copy)]
struct Passed {
    api: Option<Api>,
    options: *const OrtSessionOptions,
}

/// Called by ONNX Runtime on the thread that calls `register_custom_ops_library`.
#[unsafe(no_mangle)]
extern "C" fn RegisterCustomOps(options: *mut OrtSessionOptions, base: *const OrtApiBase) -> OrtStatusPtr {
    // SAFETY: ONNX Runtime passes its own table, which exists as long as the process.
    let api = unsafe { base.as_ref().and_then(|base| (base.GetApi)(VERSION).as_ref()) };
    PASSED.set(Some(Passed { api: api.map(Api), options }));
    OrtStatusPtr(ptr::null_mut())
}

/// The path of this library, as the process has mapped it.
fn own_path() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        let own = RegisterCustomOps as *const () as usize;
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        let line = maps.lines().find(|line| range(line).is_some_and(|range| range.contains(&own)))?;
        line.find('/').map(|start| line[start..].to_owned())
    };
    FOUND.get_or_init(look).as_deref()
}

/// The range of addresses in a line of `/proc/self/maps`.
fn range(line: &str) -> Option<Range<usize>> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
}

/// The functions of ONNX Runtime.
#[derive(Clone, Copy)]
pub struct Api(pub &'static OrtApi);

impl Api {
    /// The API, and the session options behind an `onnxruntime.SessionOptions`. The options belong to Python's object.
    pub fn of(options: &Bound<'_, PyAny>) -> PyResult<(Self, *const OrtSessionOptions)> {
        PASSED.set(None);
        let library = own_path().ok_or_else(|| PyRuntimeError::new_err("the path of headrace-native is unknown"))?;
        options.call_method1("register_custom_ops_library", (library,))?;
        let passed = PASSED.take().ok_or_else(|| PyRuntimeError::new_err("ONNX Runtime did not pass its C API"))?;
        let api = passed.api.ok_or_else(|| PyRuntimeError::new_err("ONNX Runtime is older than 1.17"))?;
        Ok((api, passed.options))
    }

    pub fn check(self, status: OrtStatusPtr) -> Result<(), Failure> {
        if status.0.is_null() {
            return Ok(());
        }
        // SAFETY: a status that is not null is valid until it is released here.
        unsafe {
            let text = CStr::from_ptr((self.0.GetErrorMessage)(status.0)).to_string_lossy().into_owned();
            // Read as a number, since newer releases of ONNX Runtime have more codes than the enum.
            let code_of: unsafe extern "system" fn(*const OrtStatus) -> i32 = mem::transmute(self.0.GetErrorCode);
            let code = usize::try_from(code_of(status.0)).unwrap_or(usize::MAX);
            (self.0.ReleaseStatus)(status.0);
            Err(Failure { code, text })
        }
    }

    /// Calls a function that sets a pointer.
    pub fn pointer<T>(self, call: impl FnOnce(&OrtApi, *mut *mut T) -> OrtStatusPtr) -> Result<NonNull<T>, Failure> {
        let mut pointer = ptr::null_mut();
        self.check(call(self.0, &raw mut pointer))?;
        NonNull::new(pointer).ok_or_else(|| Failure { code: 1, text: "ONNX Runtime has set no pointer".into() })
    }

    /// Calls a function that sets a number.
    pub fn number<T: Copy>(
        self,
        mut number: T,
        call: impl FnOnce(&OrtApi, *mut T) -> OrtStatusPtr,
    ) -> Result<T, Failure> {
        self.check(call(self.0, &raw mut number))?;
        Ok(number)
    }
}

/// An error of ONNX Runtime.
#[derive(Debug)]
pub struct Failure {
    code: usize,
    text: String,
}

impl fmt::Display for Failure {
    /// Formats it like the exceptions of `onnxruntime`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.get(self.code).unwrap_or(&"GENERAL ERROR");
        write!(out, "[ONNXRuntimeError] : {} : {name} : {}", self.code, self.text)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> Self {
        PyRuntimeError::new_err(failure.to_string())
    }
}

/// An object of ONNX Runtime, released when it is dropped.
pub struct Owned<T> {
    pub pointer: NonNull<T>,
    release: unsafe extern "system" fn(*mut T),
}

impl<T> Owned<T> {
    /// Takes over an object. `release` must be the function that releases such objects.
    pub fn new(pointer: NonNull<T>, release: unsafe extern "system" fn(*mut T)) -> Self {
        Self { pointer, release }
    }

    pub fn as_ptr(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: this is the object's only owner.
        unsafe { (self.release)(self.pointer.as_ptr()) }
    }
}

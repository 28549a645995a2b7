//! A model on the CPU: a session of ONNX Runtime whose inputs and outputs are tensors of numbers.

use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use ort_sys::{OrtAllocatorType, OrtEnv, OrtLoggingLevel, OrtMemType, OrtMemoryInfo, OrtSession, OrtSessionOptions};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use smallvec::SmallVec;

use super::api::{Api, Failure, Owned};
use super::declared::{Declared, Dimension, Reader, Side};
use super::run_options::OnnxRunOptions;
use super::value::{OnnxValue, Value, borrowed};
use crate::buffer::Buffer;
use crate::protobuf::Dtype;

/// A session. May run on several threads at the same time.
#[pyclass(frozen, module = "headrace_native")]
pub struct OnnxSession {
    api: Api,
    session: Owned<OrtSession>,
    memory: Owned<OrtMemoryInfo>,
}

// SAFETY: ONNX Runtime allows runs of a session on several threads at the same time; the memory's description never
// changes.
unsafe impl Send for OnnxSession {}
// SAFETY: as above.
unsafe impl Sync for OnnxSession {}

/// A model's file, or its content.
#[derive(FromPyObject)]
pub enum Model {
    Content(PyBackedBytes),
    File(PathBuf),
}

/// An input of a run: an array in C order. The memory must have as many bytes as the shape says, and live until the run
/// has ended.
pub struct Feed<'a> {
    pub dtype: Dtype,
    pub shape: SmallVec<[usize; 4]>,
    pub bytes: &'a [u8],
}

/// Each tensor of a session: its name, its dtype's number in types.proto, and its shape.
type Tensors = Vec<(String, u64, Vec<Option<Dimension>>)>;

#[pymethods]
impl OnnxSession {
    /// Loads a model with an `onnxruntime.SessionOptions`, which must not be used for anything else until this returns.
    #[new]
    fn new(py: Python<'_>, options: &Bound<'_, PyAny>, model: Model) -> PyResult<Self> {
        let (api, given) = Api::of(options)?;
        let given = Options(given);
        Ok(py.detach(move || Self::open(api, given.pointer(), &model))?)
    }

    /// The inputs, the outputs, and the initializers that a request may replace. None if one of them is not a tensor of
    /// numbers, or if an output is also an input: that output would be in the input's memory, which may be freed
    /// earlier.
    fn declared(&self) -> PyResult<Option<[Tensors; 3]>> {
        let reader = self.reader();
        let inputs = reader.side(Side::inputs(self.api.0))?;
        let outputs = reader.side(Side::outputs(self.api.0))?;
        let overridable = reader.side(Side::overridable(self.api.0))?;
        let (Some(inputs), Some(outputs), Some(overridable)) = (inputs, outputs, overridable) else { return Ok(None) };
        let is_fed = |name: &str| inputs.iter().chain(&overridable).any(|input| input.name == name);
        let lives = !outputs.iter().any(|output| is_fed(&output.name));
        Ok(lives.then(|| [inputs, outputs, overridable].map(listed)))
    }

    /// The value of a key in the model's metadata; None if there is none.
    fn metadata(&self, key: CString) -> PyResult<Option<String>> {
        Ok(self.reader().metadata(&key)?)
    }

    /// New options for a run.
    fn run_options(&self) -> PyResult<OnnxRunOptions> {
        Ok(OnnxRunOptions::new(self.api)?)
    }

    /// Computes the outputs with these names, without the interpreter lock. For each input, `inputs` has its name, an
    /// array of at least one dimension, and whether the input is a scalar.
    #[pyo3(signature = (names, inputs, options=None))]
    fn run(
        &self,
        py: Python<'_>,
        names: Vec<CString>,
        inputs: Vec<(CString, Bound<'_, PyAny>, bool)>,
        options: Option<&OnnxRunOptions>,
    ) -> PyResult<Vec<OnnxValue>> {
        let (mut given, mut buffers) = (Vec::new(), Vec::new());
        for (name, array, is_scalar) in inputs {
            given.push(name);
            buffers.push((Buffer::any(&array)?, is_scalar));
        }
        let names: SmallVec<[&CStr; 2]> = names.iter().map(CString::as_c_str).collect();
        let feeds = buffers.iter().map(feed).collect::<PyResult<Vec<_>>>()?;
        let values = py.detach(|| self.compute((&given, &feeds), &names, options))?;
        let numbers =
            |value: Option<Value>| value.ok_or_else(|| PyTypeError::new_err("an output is not a tensor of numbers"));
        values.into_iter().map(|value| numbers(value).map(OnnxValue::new)).collect()
    }
}

/// Options that belong to Python, which does not change or free them until the session has been created.
struct Options(*const OrtSessionOptions);

// SAFETY: the options are only read, and Python keeps them alive.
unsafe impl Sync for Options {}
// SAFETY: as above.
unsafe impl Send for Options {}

impl Options {
    /// A method, since a closure that names the field would capture the pointer alone.
    fn pointer(&self) -> *const OrtSessionOptions {
        self.0
    }
}

impl OnnxSession {
    /// The options must be valid.
    pub(super) fn open(api: Api, options: *const OrtSessionOptions, model: &Model) -> Result<Self, Failure> {
        let env = environment(api)?;
        let session = api.pointer(|api, out| match model {
            // SAFETY: the environment and the options are valid, and the content lives longer than the call.
            Model::Content(content) => unsafe {
                (api.CreateSessionFromArray)(env.as_ptr(), content.as_ptr().cast(), content.len(), options, out)
            },
            Model::File(path) => {
                let path = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
                // SAFETY: as above.
                unsafe { (api.CreateSession)(env.as_ptr(), path.as_ptr(), options, out) }
            }
        })?;
        let session = Owned::new(session, api.0.ReleaseSession);
        let (allocator, kind) = (OrtAllocatorType::OrtDeviceAllocator, OrtMemType::OrtMemTypeDefault);
        // SAFETY: the function only creates an object.
        let memory = api.pointer(|api, out| unsafe { (api.CreateCpuMemoryInfo)(allocator, kind, out) })?;
        Ok(Self { api, session, memory: Owned::new(memory, api.0.ReleaseMemoryInfo) })
    }

    fn reader(&self) -> Reader<'_> {
        Reader { api: self.api, session: &self.session }
    }

    /// Runs the model, and returns the outputs; None in place of each that is not a tensor of numbers.
    ///
    /// # Panics
    ///
    /// If the number of names differs from the number of inputs.
    pub fn compute(
        &self,
        (given, feeds): (&[CString], &[Feed<'_>]),
        names: &[&CStr],
        options: Option<&OnnxRunOptions>,
    ) -> Result<SmallVec<[Option<Value>; 2]>, Failure> {
        assert_eq!(given.len(), feeds.len());
        let own = |feed: &Feed<'_>| {
            let bytes = feed.bytes.as_ptr().cast_mut();
            borrowed(self.api, &self.memory, feed.dtype, &feed.shape, bytes)
        };
        let inputs = feeds.iter().map(own).collect::<Result<SmallVec<[_; 2]>, _>>()?;
        let pointers: SmallVec<[_; 2]> = inputs.iter().map(|value| value.as_ptr().cast_const()).collect();
        let given: SmallVec<[*const c_char; 2]> = given.iter().map(|name| name.as_ptr()).collect();
        let names: SmallVec<[*const c_char; 2]> = names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs: SmallVec<[_; 2]> = SmallVec::from_elem(ptr::null_mut(), names.len());
        // SAFETY: all pointers are valid during the call, and the slices have the lengths that are passed.
        let status = unsafe {
            (self.api.0.Run)(
                self.session.as_ptr(),
                options.map_or(ptr::null(), OnnxRunOptions::as_ptr),
                given.as_ptr(),
                pointers.as_ptr(),
                pointers.len(),
                names.as_ptr(),
                names.len(),
                outputs.as_mut_ptr(),
            )
        };
        // The outputs are taken over before the check, so that they are released even after an error.
        let owned: SmallVec<[_; 2]> = outputs
            .into_iter()
            .map(|out| NonNull::new(out).map(|out| Owned::new(out, self.api.0.ReleaseValue)))
            .collect();
        self.api.check(status)?;
        owned.into_iter().map(|value| value.map_or(Ok(None), |value| Value::of(self.api, value))).collect()
    }
}

/// ONNX Runtime's environment, which it creates once and which Python's sessions use, too.
fn environment(api: Api) -> Result<NonNull<OrtEnv>, Failure> {
    let level = OrtLoggingLevel::ORT_LOGGING_LEVEL_ERROR;
    // SAFETY: the function creates the environment, or returns the existing one. It is never released: it must exist as
    // long as any session.
    api.pointer(|api, out| unsafe { (api.CreateEnv)(level, c"headrace".as_ptr(), out) })
}

fn listed(tensors: Vec<Declared>) -> Tensors {
    tensors.into_iter().map(|tensor| (tensor.name, tensor.dtype.number(), tensor.shape)).collect()
}

fn feed((buffer, is_scalar): &(Buffer, bool)) -> PyResult<Feed<'_>> {
    let dtype = buffer.dtype().ok_or_else(|| PyTypeError::new_err("an input is not an array of numbers"))?;
    let shape = if *is_scalar { &[][..] } else { buffer.shape() };
    Ok(Feed { dtype, shape: SmallVec::from_slice(shape), bytes: buffer.bytes() })
}

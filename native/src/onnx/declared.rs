//! What a session declares: its inputs, its outputs, and its metadata.

use std::ffi::{CStr, c_char};
use std::ptr::{self, NonNull};

use ort_sys::{ONNXType, OrtAllocator, OrtApi, OrtSession, OrtStatusPtr, OrtTensorTypeAndShapeInfo, OrtTypeInfo};
use pyo3::prelude::*;

use super::api::{Api, Failure, Owned};
use super::value::dtype_of;
use crate::protobuf::Dtype;

/// A tensor that a session declares: its name, its dtype, and its dimensions. A dimension is None if it has neither a
/// size nor a name.
pub struct Declared {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<Option<Dimension>>,
}

#[derive(IntoPyObject)]
pub enum Dimension {
    Size(i64),
    Name(String),
}

type NameOf = unsafe extern "system" fn(*const OrtSession, usize, *mut OrtAllocator, *mut *mut c_char) -> OrtStatusPtr;
type InfoOf = unsafe extern "system" fn(*const OrtSession, usize, *mut *mut OrtTypeInfo) -> OrtStatusPtr;
type CountOf = unsafe extern "system" fn(*const OrtSession, *mut usize) -> OrtStatusPtr;

/// The functions that describe one side of a session.
#[derive(Clone, Copy)]
pub struct Side {
    count: CountOf,
    name: NameOf,
    info: InfoOf,
}

impl Side {
    pub fn inputs(api: &OrtApi) -> Self {
        Self { count: api.SessionGetInputCount, name: api.SessionGetInputName, info: api.SessionGetInputTypeInfo }
    }

    pub fn outputs(api: &OrtApi) -> Self {
        Self { count: api.SessionGetOutputCount, name: api.SessionGetOutputName, info: api.SessionGetOutputTypeInfo }
    }

    /// The initializers that a request may replace.
    pub fn overridable(api: &OrtApi) -> Self {
        Self {
            count: api.SessionGetOverridableInitializerCount,
            name: api.SessionGetOverridableInitializerName,
            info: api.SessionGetOverridableInitializerTypeInfo,
        }
    }
}

/// Reads what a session declares.
pub struct Reader<'a> {
    pub api: Api,
    pub session: &'a Owned<OrtSession>,
}

impl Reader<'_> {
    /// The tensors of one side; None if one of them is not a tensor of numbers.
    pub fn side(&self, side: Side) -> Result<Option<Vec<Declared>>, Failure> {
        // SAFETY: the session is valid.
        let count = self.api.number(0, |_, out| unsafe { (side.count)(self.session.as_ptr(), out) })?;
        (0..count).map(|index| self.declared(side, index)).collect()
    }

    /// The value of a key in the model's metadata; None if there is none.
    pub fn metadata(&self, key: &CStr) -> Result<Option<String>, Failure> {
        // SAFETY: the session is valid, and so are the objects that it returns.
        unsafe {
            let metadata = self.api.pointer(|api, out| (api.SessionGetModelMetadata)(self.session.as_ptr(), out))?;
            let metadata = Owned::new(metadata, self.api.0.ReleaseModelMetadata);
            let allocator = self.allocator()?;
            let mut text = ptr::null_mut();
            self.api.check((self.api.0.ModelMetadataLookupCustomMetadataMap)(
                metadata.as_ptr(),
                allocator.as_ptr(),
                key.as_ptr(),
                &raw mut text,
            ))?;
            NonNull::new(text).map(|text| self.taken(text, allocator)).transpose()
        }
    }

    fn allocator(&self) -> Result<NonNull<OrtAllocator>, Failure> {
        // SAFETY: the call only returns the default allocator, which always exists.
        self.api.pointer(|api, out| unsafe { (api.GetAllocatorWithDefaultOptions)(out) })
    }

    /// Copies a string that ONNX Runtime has allocated, and frees the original.
    fn taken(&self, text: NonNull<c_char>, allocator: NonNull<OrtAllocator>) -> Result<String, Failure> {
        // SAFETY: the string ends with a zero byte, belongs to the allocator, and is not used afterwards.
        unsafe {
            let own = CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned();
            self.api.check((self.api.0.AllocatorFree)(allocator.as_ptr(), text.as_ptr().cast()))?;
            Ok(own)
        }
    }

    fn declared(&self, side: Side, index: usize) -> Result<Option<Declared>, Failure> {
        // SAFETY: the session is valid, and the index is below the count.
        unsafe {
            let allocator = self.allocator()?;
            let name = self.api.pointer(|_, out| (side.name)(self.session.as_ptr(), index, allocator.as_ptr(), out))?;
            let name = self.taken(name, allocator)?;
            let info = self.api.pointer(|_, out| (side.info)(self.session.as_ptr(), index, out))?;
            let info = Owned::new(info, self.api.0.ReleaseTypeInfo);
            // Read as a number, since newer releases of ONNX Runtime may have more types than the enum.
            let kind: i32 =
                self.api.number(0, |api, out: *mut i32| (api.GetOnnxTypeFromTypeInfo)(info.as_ptr(), out.cast()))?;
            if kind != ONNXType::ONNX_TYPE_TENSOR as i32 {
                return Ok(None);
            }
            let tensor = self.api.number(ptr::null(), |api, out| (api.CastTypeInfoToTensorInfo)(info.as_ptr(), out))?;
            self.tensor(name, tensor)
        }
    }

    /// # Safety
    ///
    /// `info` must be valid.
    unsafe fn tensor(&self, name: String, info: *const OrtTensorTypeAndShapeInfo) -> Result<Option<Declared>, Failure> {
        let api = self.api;
        // SAFETY: the caller guarantees that `info` is valid; the names of dimensions live as long as `info`.
        unsafe {
            let element = api.number(0, |api, out: *mut i32| (api.GetTensorElementType)(info, out.cast()))?;
            let Some(dtype) = dtype_of(element) else { return Ok(None) };
            let rank = api.number(0, |api, out| (api.GetDimensionsCount)(info, out))?;
            let (mut sizes, mut names) = (vec![0i64; rank], vec![ptr::null(); rank]);
            api.check((api.0.GetDimensions)(info, sizes.as_mut_ptr(), rank))?;
            api.check((api.0.GetSymbolicDimensions)(info, names.as_mut_ptr(), rank))?;
            let shape = sizes.into_iter().zip(names).map(|(size, name)| dimension(size, CStr::from_ptr(name)));
            Ok(Some(Declared { name, dtype, shape: shape.collect() }))
        }
    }
}

fn dimension(size: i64, name: &CStr) -> Option<Dimension> {
    if size >= 0 {
        return Some(Dimension::Size(size));
    }
    (!name.is_empty()).then(|| Dimension::Name(name.to_string_lossy().into_owned()))
}

//! Tensors of ONNX Runtime, which Python sees through the buffer protocol.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;

use ort_sys::{ONNXTensorElementDataType as Element, OrtMemoryInfo, OrtValue};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use smallvec::SmallVec;

use super::api::{Api, Failure, Owned};
use crate::protobuf::Dtype;

/// A tensor of numbers in ONNX Runtime's memory.
pub struct Value {
    /// Keeps the memory alive.
    _value: Owned<OrtValue>,
    pub dtype: Dtype,
    pub shape: SmallVec<[usize; 4]>,
    data: *const u8,
}

// SAFETY: after the run that produced it, the memory is written to only by Python code that owns the array.
unsafe impl Send for Value {}
// SAFETY: as above.
unsafe impl Sync for Value {}

impl Value {
    /// An output of a run; None if it is not a tensor of numbers.
    pub fn of(api: Api, value: Owned<OrtValue>) -> Result<Option<Self>, Failure> {
        // SAFETY: `value` is valid, and so is what the functions return.
        unsafe {
            let is_tensor = api.number(0, |api, out| (api.IsTensor)(value.as_ptr(), out))?;
            if is_tensor == 0 {
                return Ok(None);
            }
            let info = api.pointer(|api, out| (api.GetTensorTypeAndShape)(value.as_ptr(), out))?;
            let info = Owned::new(info, api.0.ReleaseTensorTypeAndShapeInfo);
            let element = api.number(0, |api, out: *mut i32| (api.GetTensorElementType)(info.as_ptr(), out.cast()))?;
            let Some(dtype) = dtype_of(element) else { return Ok(None) };
            let rank = api.number(0, |api, out| (api.GetDimensionsCount)(info.as_ptr(), out))?;
            let mut dims: SmallVec<[i64; 4]> = SmallVec::from_elem(0, rank);
            api.check((api.0.GetDimensions)(info.as_ptr(), dims.as_mut_ptr(), rank))?;
            let shape = dims.iter().map(|dim| usize::try_from(*dim).unwrap_or(0)).collect();
            let mut data: *mut c_void = ptr::null_mut();
            api.check((api.0.GetTensorMutableData)(value.as_ptr(), &raw mut data))?;
            Ok(Some(Self { _value: value, dtype, shape, data: data.cast() }))
        }
    }

    fn len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    pub fn bytes(&self) -> &[u8] {
        if self.len() == 0 {
            return &[];
        }
        // SAFETY: the tensor is contiguous, has this many bytes, and lives as long as `self`.
        unsafe { std::slice::from_raw_parts(self.data, self.len()) }
    }
}

/// A tensor in an array's memory, which must live longer than the tensor.
pub fn borrowed(
    api: Api,
    memory: &Owned<OrtMemoryInfo>,
    dtype: Dtype,
    shape: &[usize],
    bytes: *mut u8,
) -> Result<Owned<OrtValue>, Failure> {
    let dims: SmallVec<[i64; 4]> = shape.iter().map(|dim| *dim as i64).collect();
    let len = shape.iter().product::<usize>() * dtype.size();
    // SAFETY: the caller keeps the memory alive; the runtime only reads inputs.
    let value = api.pointer(|api, out| unsafe {
        let (info, element) = (memory.as_ptr(), element_of(dtype));
        (api.CreateTensorWithDataAsOrtValue)(info, bytes.cast(), len, dims.as_ptr(), dims.len(), element, out)
    })?;
    Ok(Owned::new(value, api.0.ReleaseValue))
}

/// Each dtype, ONNX Runtime's number for it, and its format in the buffer protocol.
const ELEMENTS: [(Dtype, Element, &CStr); Dtype::COUNT - 1] = [
    (Dtype::Float, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, c"f"),
    (Dtype::Double, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, c"d"),
    (Dtype::Int32, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, c"i"),
    (Dtype::Uint8, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, c"B"),
    (Dtype::Int16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16, c"h"),
    (Dtype::Int8, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, c"b"),
    (Dtype::Int64, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, c"l"),
    (Dtype::Bool, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, c"?"),
    (Dtype::Uint16, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16, c"H"),
    (Dtype::Half, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, c"e"),
    (Dtype::Uint32, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32, c"I"),
    (Dtype::Uint64, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64, c"L"),
];

/// The dtype for ONNX Runtime's number of an element type; None if there is none, as for strings. The argument is
/// not an `Element`, since newer releases of ONNX Runtime have more types than the enum.
pub fn dtype_of(element: i32) -> Option<Dtype> {
    ELEMENTS.iter().find(|row| row.1 as i32 == element).map(|row| row.0)
}

fn element_of(dtype: Dtype) -> Element {
    let row = ELEMENTS.iter().find(|row| row.0 == dtype);
    row.map_or(Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, |row| row.1)
}

/// A tensor that numpy can use as an array without copying it.
#[pyclass(frozen, module = "headrace_native")]
pub struct OnnxValue {
    value: Value,
    /// The shape and the strides, which a `Py_buffer` refers to.
    shape: Vec<isize>,
    strides: Vec<isize>,
}

impl OnnxValue {
    pub fn new(value: Value) -> Self {
        let shape: Vec<_> = value.shape.iter().map(|dim| *dim as isize).collect();
        let mut strides = vec![value.dtype.size() as isize; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        Self { value, shape, strides }
    }
}

#[pymethods]
impl OnnxValue {
    /// Fills `view`, as the buffer protocol requires.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, _flags: c_int) -> PyResult<()> {
        let own = slf.get();
        let row = ELEMENTS.iter().find(|row| row.0 == own.value.dtype);
        let format = row.ok_or_else(|| PyTypeError::new_err("not a tensor of numbers"))?.2;
        // SAFETY: Python passes memory for a view, which keeps this object alive; everything that the view refers to
        // lives as long as the object.
        unsafe {
            (*view).buf = own.value.data.cast_mut().cast();
            (*view).len = own.value.len() as isize;
            (*view).readonly = 0;
            (*view).itemsize = own.value.dtype.size() as isize;
            (*view).format = format.as_ptr().cast_mut();
            (*view).ndim = own.shape.len() as c_int;
            (*view).shape = own.shape.as_ptr().cast_mut();
            (*view).strides = own.strides.as_ptr().cast_mut();
            (*view).suboffsets = ptr::null_mut();
            (*view).internal = ptr::null_mut();
            (*view).obj = slf.into_ptr();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dtype_of_numbers_has_an_element() {
        for (dtype, element, _) in ELEMENTS {
            assert_eq!(dtype_of(element as i32), Some(dtype));
            assert_eq!(element_of(dtype), element);
        }
    }

    #[test]
    fn types_that_are_not_numbers_have_no_dtype() {
        for element in [0, Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING as i32, 1000, -1] {
            assert_eq!(dtype_of(element), None);
        }
    }
}

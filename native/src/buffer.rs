//! Memory that is shared with Python: an array's, which is borrowed, and copies. Other `unsafe` code is only in `allocator.rs`, `onnx/` and
//! `worker/page.rs`.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::protobuf::Dtype;

/// A copy for Python. Raises a MemoryError if there is no memory for it, where `PyBytes::new` would panic.
pub fn python_bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    PyBytes::new_with(py, bytes.len(), |copy| {
        copy.copy_from_slice(bytes);
        Ok(())
    })
}

/// The contiguous memory of an array with a known dtype, which stays valid as long as this exists.
pub struct Buffer {
    raw: PyUntypedBuffer,
}

impl Buffer {
    pub fn to_join_in(array: &Bound<'_, PyAny>, shape: &[usize], dtype: Dtype) -> PyResult<Self> {
        let buffer = Self::with_room(array, dtype)?;
        if buffer.raw.shape() != shape {
            return Err(wrong_to_join_in());
        }
        Ok(buffer)
    }

    /// An array to join in that may have room for more rows than the batch has.
    pub fn with_room(array: &Bound<'_, PyAny>, dtype: Dtype) -> PyResult<Self> {
        let buffer = Self::any(array)?;
        if buffer.dtype() != Some(dtype) {
            return Err(wrong_to_join_in());
        }
        if buffer.raw.readonly() {
            return Err(PyBufferError::new_err("the array to join in is read-only"));
        }
        Ok(buffer)
    }

    pub fn any(array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let raw = PyUntypedBuffer::get(array)?;
        if !raw.is_c_contiguous() {
            return Err(PyBufferError::new_err("the array is not contiguous"));
        }
        Ok(Self { raw })
    }

    /// The shape of the buffer, which can differ from that of the array it was requested from.
    pub fn shape(&self) -> &[usize] {
        self.raw.shape()
    }

    /// Whether the array has no dimensions: then `shape` must not be called.
    pub fn is_scalar(&self) -> bool {
        self.raw.dimensions() == 0
    }

    pub fn dtype(&self) -> Option<Dtype> {
        Dtype::of_format(self.raw.format(), self.raw.item_size())
    }

    pub fn bytes(&self) -> &[u8] {
        if self.raw.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer is contiguous and exported, so its `len_bytes` bytes stay where they are for as long as
        // `self` lives. An output belongs to the batch thread that owns `self`; the backend no longer uses it.
        unsafe { std::slice::from_raw_parts(self.raw.buf_ptr().cast(), self.raw.len_bytes()) }
    }

    #[expect(clippy::mut_from_ref, reason = "the memory is Python's, and `self` only refers to it")]
    pub fn bytes_mut(&self) -> &mut [u8] {
        if self.raw.len_bytes() == 0 {
            return &mut [];
        }
        // SAFETY: as above, and writable, as `with_room` has checked. The array's creator gives it to this batch alone
        // until the batch has run, and no batch has two of these slices of an array at the same time.
        unsafe { std::slice::from_raw_parts_mut(self.raw.buf_ptr().cast(), self.raw.len_bytes()) }
    }
}

fn wrong_to_join_in() -> PyErr {
    PyBufferError::new_err("the array to join in must have the input's dtype and the batch's shape")
}

//! Encodes a Predict's inputs: small arrays are copied, and large ones are sent from their own memory.

use bytes::{BufMut, Bytes, BytesMut};
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::buffer::Buffer;
use crate::protobuf::{Dtype, Rows, Writer, wire};

/// Arrays of up to this many bytes are copied.
const COPIED: usize = 16 * 1024;

/// The field number of `inputs` in a PredictRequest.
const INPUTS: u32 = 2;

/// A Predict's inputs.
#[derive(Default)]
pub struct Inputs(Vec<Input>);

struct Input {
    alias: String,
    dtype: Dtype,
    array: Buffer,
}

/// An array's memory that is being sent.
struct Borrowed(Buffer);

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl Inputs {
    /// Borrows arrays by name.
    pub fn of(arrays: &Bound<'_, PyDict>) -> PyResult<Self> {
        arrays.iter().map(|(alias, array)| Input::of(&alias, &array)).collect::<PyResult<_>>().map(Self)
    }

    /// The total number of bytes.
    pub fn encoded_len(&self) -> usize {
        self.0.iter().map(|input| wire::field_len(INPUTS, input.entry_len())).sum()
    }

    /// The number of bytes that are copied, or slightly more.
    pub fn copied_len(&self) -> usize {
        const HEADS: usize = 128;
        self.0.iter().map(|input| HEADS + input.alias.len() + if input.is_copied() { input.size() } else { 0 }).sum()
    }

    /// Appends the inputs to a message, which is returned in pieces.
    pub fn encode(self, mut out: BytesMut) -> Vec<Bytes> {
        let mut pieces = Vec::with_capacity(1);
        for input in self.0 {
            input.encode_before_content(&mut out);
            if input.is_copied() {
                out.put_slice(input.array.bytes());
            } else {
                pieces.push(out.split().freeze());
                pieces.push(Bytes::from_owner(Borrowed(input.array)));
            }
        }
        if !out.is_empty() {
            pieces.push(out.freeze());
        }
        pieces
    }
}

impl Input {
    fn of(alias: &Bound<'_, PyAny>, array: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = Buffer::any(array)?;
        let dtype = buffer.dtype().ok_or_else(|| PyBufferError::new_err("the array is of another dtype"))?;
        if buffer.is_scalar() {
            return Err(PyBufferError::new_err("the array is a scalar"));
        }
        Ok(Self { alias: alias.extract()?, dtype, array: buffer })
    }

    fn size(&self) -> usize {
        self.array.bytes().len()
    }

    fn is_copied(&self) -> bool {
        self.size() <= COPIED
    }

    fn tensor(&self) -> Rows<'_> {
        Rows { dtype: self.dtype, rows: None, inner: self.array.shape(), bytes: self.array.bytes(), text: &[] }
    }

    fn entry_len(&self) -> usize {
        wire::field_len(1, self.alias.len()) + wire::field_len(2, self.tensor().encoded_len(true))
    }

    fn encode_before_content(&self, out: &mut BytesMut) {
        let out = &mut Writer::new(out);
        let tensor = self.tensor();
        out.field(INPUTS, self.entry_len());
        out.field(1, self.alias.len());
        out.slice(self.alias.as_bytes());
        out.field(2, tensor.encoded_len(true));
        tensor.encode_before_content(out);
    }
}

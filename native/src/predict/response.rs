//! Writes a plain response: some rows of each output, and the effective ModelSpec.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::protobuf::{self, Dtype, Rows, Writer, wire};

/// One output of a batch: its alias, its shape, and its bytes.
#[derive(Clone)]
pub struct Output<'a> {
    pub alias: &'a str,
    pub dtype: Dtype,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
    /// The text that contains the elements, if they are strings.
    pub text: &'a [u8],
    /// Whether one task gets the whole output, whatever its number of rows.
    pub whole: bool,
}

impl<'a> Output<'a> {
    /// Some rows of the output, or the whole output if one task gets all of it.
    pub fn rows(&self, rows: &Range<usize>) -> Rows<'a> {
        if self.whole {
            return Rows { dtype: self.dtype, rows: None, inner: self.shape, bytes: self.bytes, text: self.text };
        }
        let inner = self.shape.get(1..).unwrap_or_default();
        let row = inner.iter().product::<usize>() * self.dtype.size();
        let bytes = &self.bytes[rows.start * row..rows.end * row];
        Rows { dtype: self.dtype, rows: Some(rows.len()), inner, bytes, text: self.text }
    }
}

/// The common part of all responses of one signature.
#[derive(Clone)]
pub struct Format {
    model_spec: Bytes,
    as_content: bool,
}

impl Format {
    /// Returns the format of the responses of one signature. `as_content`: whether values are sent as `tensor_content`.
    pub fn new(name: &str, version: i64, signature: &str, as_content: bool) -> Self {
        Self { model_spec: model_spec(name, version, signature), as_content }
    }
}

/// The effective ModelSpec, as a field of the response.
fn model_spec(name: &str, version: i64, signature: &str) -> Bytes {
    let spec = protobuf::model_spec(name, version, signature);
    Writer::message(|out| {
        out.field(2, spec.len());
        out.slice(&spec);
    })
}

/// A PredictResponse of known size, ready to be written.
pub struct Response<'a> {
    format: &'a Format,
    /// Each output's alias, its rows, and their size in bytes.
    tensors: SmallVec<[(&'a str, Rows<'a>, usize); 1]>,
    len: usize,
}

impl<'a> Response<'a> {
    /// A response with these rows of each output.
    pub fn new(format: &'a Format, outputs: &[Output<'a>], rows: Range<usize>) -> Self {
        let tensor = |output: &Output<'a>| {
            let rows = output.rows(&rows);
            let len = rows.encoded_len(format.as_content);
            (output.alias, rows, len)
        };
        let tensors: SmallVec<[_; 1]> = outputs.iter().map(tensor).collect();
        let entries = tensors.iter().map(|(alias, _, len)| wire::field_len(1, entry_len(alias, *len)));
        let len = entries.sum::<usize>() + format.model_spec.len();
        Self { format, tensors, len }
    }

    /// The size of the response in bytes.
    pub fn encoded_len(&self) -> usize {
        self.len
    }

    /// A text about the largest output, which the services in Python use, too.
    pub fn largest(&self) -> String {
        let largest = self.tensors.iter().max_by_key(|(_, rows, _)| rows.size());
        largest.map_or_else(String::new, |(alias, rows, _)| format!("; output {alias} alone has {} bytes", rows.size()))
    }

    /// Writes the response.
    pub fn encode(&self, out: &mut Writer<'_>) {
        for (alias, rows, len) in &self.tensors {
            out.field(1, entry_len(alias, *len));
            out.field(1, alias.len());
            out.slice(alias.as_bytes());
            out.field(2, *len);
            rows.encode(self.format.as_content, out);
        }
        out.slice(&self.format.model_spec);
    }
}

fn entry_len(alias: &str, tensor: usize) -> usize {
    wire::field_len(1, alias.len()) + wire::field_len(2, tensor)
}

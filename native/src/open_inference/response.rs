//! Writes a plain ModelInferResponse: some rows of each output as raw contents, sorted by name.

use std::ops::Range;

use bytes::Bytes;

use super::datatype;
use crate::predict::Output;
use crate::protobuf::{Rows, Writer, wire};

/// The common part of all responses of one version.
pub struct Format {
    /// The model's name and version, as fields of the response.
    model: Bytes,
}

impl Format {
    pub fn new(name: &str, version: i64) -> Self {
        let model = Writer::message(|out| {
            put(out, 1, name.as_bytes());
            put(out, 2, version.to_string().as_bytes());
        });
        Self { model }
    }
}

/// A ModelInferResponse of known size, ready to be written.
pub struct Response<'a> {
    format: &'a Format,
    id: &'a [u8],
    tensors: Vec<Tensor<'a>>,
    len: usize,
}

struct Tensor<'a> {
    name: &'a str,
    rows: Rows<'a>,
    /// The size of the encoded shape in bytes.
    shape: usize,
    /// The size in bytes of the encoded description, which contains the shape.
    described: usize,
}

impl<'a> Response<'a> {
    /// A response with these rows of each output.
    pub fn new(format: &'a Format, id: &'a [u8], outputs: &[Output<'a>], rows: Range<usize>) -> Self {
        let mut tensors: Vec<_> = outputs.iter().map(|output| Tensor::new(output.alias, output.rows(&rows))).collect();
        tensors.sort_by_key(|tensor| tensor.name);
        let of_tensors: usize = tensors.iter().map(Tensor::len).sum();
        let len = format.model.len() + field_len(3, id.len()) + of_tensors;
        Self { format, id, tensors, len }
    }

    /// The size of the response in bytes.
    pub fn encoded_len(&self) -> usize {
        self.len
    }

    /// A text about the largest output, which the services in Python use, too.
    pub fn largest(&self) -> String {
        let largest = self.tensors.iter().max_by_key(|tensor| tensor.rows.bytes.len());
        largest.map_or_else(String::new, |tensor| {
            format!("; output {} alone has {} bytes", tensor.name, tensor.rows.bytes.len())
        })
    }

    /// Writes the response.
    pub fn encode(&self, out: &mut Writer<'_>) {
        out.slice(&self.format.model);
        put(out, 3, self.id);
        for tensor in &self.tensors {
            tensor.describe(out);
        }
        for tensor in &self.tensors {
            // Written even if it is empty: there is an entry for every output.
            out.field(6, tensor.rows.bytes.len());
            out.slice(tensor.rows.bytes);
        }
    }
}

impl<'a> Tensor<'a> {
    fn new(name: &'a str, rows: Rows<'a>) -> Self {
        let shape = rows.shape().map(|size| wire::varint_len(size as u64)).sum();
        let described = field_len(1, name.len()) + field_len(2, datatype(rows.dtype).len()) + field_len(3, shape);
        Self { name, rows, shape, described }
    }

    fn len(&self) -> usize {
        wire::field_len(5, self.described) + wire::field_len(6, self.rows.bytes.len())
    }

    fn describe(&self, out: &mut Writer<'_>) {
        out.field(5, self.described);
        put(out, 1, self.name.as_bytes());
        put(out, 2, datatype(self.rows.dtype).as_bytes());
        if self.shape > 0 {
            out.field(3, self.shape);
            self.rows.shape().for_each(|size| out.varint(size as u64));
        }
    }
}

/// The size in bytes of a field that is left out if it is empty.
fn field_len(field: u32, len: usize) -> usize {
    if len == 0 { 0 } else { wire::field_len(field, len) }
}

/// Writes a field that is left out if it is empty.
fn put(out: &mut Writer<'_>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        out.field(field, value.len());
        out.slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Dtype;

    #[test]
    fn the_announced_length_is_that_of_the_response() {
        let format = Format::new("model", 3);
        let one = Output { alias: "y", dtype: Dtype::Float, shape: &[2, 1], bytes: &[0; 8], text: &[], whole: false };
        let other = Output { alias: "a", dtype: Dtype::Int64, shape: &[2], bytes: &[1; 16], text: &[], whole: false };
        for id in [&b""[..], b"seven"] {
            let response = Response::new(&format, id, &[one.clone(), other.clone()], 1..2);
            let out = Writer::message(|out| response.encode(out));
            assert_eq!(out.len(), response.encoded_len());
            let names: Vec<_> = response.tensors.iter().map(|tensor| tensor.name).collect();
            assert_eq!(names, ["a", "y"]);
        }
    }
}

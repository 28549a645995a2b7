//! Encodes outputs as the answers of Classify, Regress and MultiInference.

use bytes::Bytes;

use crate::protobuf::texts::{SPAN, strings};
use crate::protobuf::{Writer, model_spec, wire};

/// The common part of all answers of one signature.
pub struct Format {
    /// The effective ModelSpec, without the tag of its field.
    spec: Bytes,
}

impl Format {
    pub fn new(name: &str, version: i64, signature: &str) -> Self {
        Self { spec: model_spec(name, version, signature) }
    }

    /// The size in bytes of the ModelSpec as a field.
    fn spec_len(&self, field: u32) -> usize {
        wire::field_len(field, self.spec.len())
    }

    fn put_spec(&self, field: u32, out: &mut Writer<'_>) {
        out.field(field, self.spec.len());
        out.slice(&self.spec);
    }
}

/// The classes and scores of each Example, row by row.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    /// Strings: their positions, and the text that contains them.
    pub classes: Option<(&'a [u8], &'a [u8])>,
    /// Floats, little-endian.
    pub scores: Option<&'a [u8]>,
    pub columns: usize,
    pub rows: usize,
    /// One label for each column, or none. Used instead of `classes` if there are any.
    pub labels: &'a [Bytes],
}

/// The kind of result.
#[derive(Clone, Copy)]
pub enum Result<'a> {
    /// A ClassificationResult.
    Classes(Table<'a>),
    /// A RegressionResult of these floats.
    Values(&'a [u8]),
}

/// The bits of each float.
fn floats(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|bits| u32::from_le_bytes(*bits))
}

/// The size in bytes of the field of a float, which is left out if it is 0.
fn float_len(bits: u32) -> usize {
    if bits == 0 { 0 } else { 5 }
}

fn put_float(out: &mut Writer<'_>, field: u32, bits: u32) {
    if bits != 0 {
        out.tag(field, wire::FIXED32);
        out.slice(&bits.to_le_bytes());
    }
}

impl<'a> Table<'a> {
    /// The label and the score of each class of a row.
    pub fn pairs(self, row: usize) -> impl Iterator<Item = (&'a [u8], f32)> {
        (row * self.columns..(row + 1) * self.columns).map(move |at| {
            let label = match self.classes {
                Some((places, text)) => strings(&places[at * SPAN..(at + 1) * SPAN], text).next().unwrap_or_default(),
                None => self.labels.get(at % self.columns).map_or(&[][..], |label| label),
            };
            let score = self.scores.and_then(|scores| floats(&scores[4 * at..]).next()).unwrap_or_default();
            (label, f32::from_bits(score))
        })
    }

    /// The size in bytes of each Class of a row, and its label and score.
    fn classes(self, row: usize) -> impl Iterator<Item = (usize, &'a [u8], u32)> {
        let sized =
            |(label, score): (&'a [u8], f32)| (label_len(label) + float_len(score.to_bits()), label, score.to_bits());
        self.pairs(row).map(sized)
    }

    fn row_len(self, row: usize) -> usize {
        self.classes(row).map(|(len, _, _)| wire::field_len(1, len)).sum()
    }

    fn len(self) -> usize {
        (0..self.rows).map(|row| wire::field_len(1, self.row_len(row))).sum()
    }

    fn encode(self, out: &mut Writer<'_>) {
        for row in 0..self.rows {
            out.field(1, self.row_len(row));
            for (len, label, score) in self.classes(row) {
                out.field(1, len);
                if !label.is_empty() {
                    out.field(1, label.len());
                    out.slice(label);
                }
                put_float(out, 2, score);
            }
        }
    }
}

fn label_len(label: &[u8]) -> usize {
    if label.is_empty() { 0 } else { wire::field_len(1, label.len()) }
}

impl<'a> Result<'a> {
    /// The values of a regression.
    pub fn values(self) -> impl Iterator<Item = f32> {
        let values: &'a [u8] = if let Self::Values(values) = self { values } else { &[] };
        floats(values).map(f32::from_bits)
    }

    /// The number of the result's values, or of its pairs of a class and a score.
    pub fn elements(self) -> usize {
        match self {
            Self::Classes(table) => table.rows * table.columns,
            Self::Values(values) => values.len() / 4,
        }
    }

    fn len(self) -> usize {
        match self {
            Self::Classes(table) => table.len(),
            Self::Values(values) => floats(values).map(|bits| wire::field_len(1, float_len(bits))).sum(),
        }
    }

    fn encode(self, out: &mut Writer<'_>) {
        match self {
            Self::Classes(table) => table.encode(out),
            Self::Values(values) => floats(values).for_each(|bits| {
                out.field(1, float_len(bits));
                put_float(out, 1, bits);
            }),
        }
    }
}

/// A response of known size, ready to be written.
pub struct Response<'a> {
    parts: Vec<Part<'a>>,
    len: usize,
    /// Whether the response has a list of results instead of one.
    multi: bool,
}

struct Part<'a> {
    format: &'a Format,
    result: Result<'a>,
    /// The size in bytes of the result.
    result_len: usize,
    len: usize,
}

impl<'a> Response<'a> {
    /// A ClassificationResponse or a RegressionResponse.
    pub fn new(format: &'a Format, result: Result<'a>) -> Self {
        let result_len = result.len();
        let len = wire::field_len(1, result_len) + format.spec_len(2);
        Self { parts: vec![Part { format, result, result_len, len }], len, multi: false }
    }

    /// The size of the response in bytes.
    pub fn encoded_len(&self) -> usize {
        self.len
    }

    /// Writes the response.
    pub fn encode(&self, out: &mut Writer<'_>) {
        for part in &self.parts {
            if self.multi {
                out.field(1, part.len);
                part.format.put_spec(1, out);
                out.field(part.field(), part.result_len);
                part.result.encode(out);
            } else {
                out.field(1, part.result_len);
                part.result.encode(out);
                part.format.put_spec(2, out);
            }
        }
    }
}

impl Part<'_> {
    /// The number of the field of an InferenceResult that has the result.
    fn field(&self) -> u32 {
        match self.result {
            Result::Classes(_) => 2,
            Result::Values(_) => 3,
        }
    }
}

/// A MultiInferenceResponse.
pub fn multi_response<'a>(results: impl Iterator<Item = (&'a Format, Result<'a>)>) -> Response<'a> {
    let part = |(format, result): (&'a Format, Result<'a>)| {
        let mut part = Part { format, result, result_len: result.len(), len: 0 };
        part.len = format.spec_len(1) + wire::field_len(part.field(), part.result_len);
        part
    };
    let parts: Vec<_> = results.map(part).collect();
    let len = parts.iter().map(|part| wire::field_len(1, part.len)).sum();
    Response { parts, len, multi: true }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn the_announced_length_is_that_of_the_response() {
        let format = Format::new("model", 3, "serving_default");
        let scores = [0_f32, 1.5, -0.0, f32::NAN].map(f32::to_le_bytes).concat();
        let labels = [Bytes::new(), Bytes::from_static(b"large")];
        for labels in [&[][..], &labels] {
            let table = Table { classes: None, scores: Some(&scores), columns: 2, rows: 2, labels };
            let results = [Result::Classes(table), Result::Values(&scores)];
            let mut responses: Vec<_> = results.iter().map(|result| Response::new(&format, *result)).collect();
            responses.push(multi_response(results.iter().map(|result| (&format, *result))));
            for response in responses {
                let out = Writer::message(|out| response.encode(out));
                assert_eq!(out.len(), response.encoded_len());
            }
        }
    }
}

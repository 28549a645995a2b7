//! Writes arrays as the body of an answer: TF Serving's numbers, lists and white space, as in
//! `services/tf_serving/rest/outputs.py`.

use std::ops::Range;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::values::{BETWEEN, Lists, write_member, write_name};
use crate::json::{ESCAPED, write_line, write_string};
use crate::memory::{Growing, NoMemory};
use crate::predict::Output;
use crate::protobuf::{Dtype, Rows};

/// The approximate size of an element, including the separator.
const TEXT: usize = 16;

/// As in TF Serving, a string output whose alias ends with this is answered as base64, under this key.
const BYTES_SUFFIX: &str = "_bytes";

/// Whether JSON can express values of a type.
pub fn is_written(dtype: Dtype) -> bool {
    !matches!(dtype, Dtype::Half | Dtype::Uint16)
}

impl From<NoMemory> for Unwritten<'_> {
    fn from(reason: NoMemory) -> Self {
        Self::NoMemory(reason)
    }
}

/// Some rows of an output, by its alias.
pub struct Part<'a> {
    pub alias: &'a str,
    pub rows: Rows<'a>,
}

/// The reason why outputs cannot be written.
#[derive(Debug, PartialEq, Eq)]
pub enum Unwritten<'a> {
    NoMemory(NoMemory),
    /// An answer row by row is wanted, but the output has no rows.
    Scalar(&'a str),
    /// The output's number of rows differs from that of the outputs before it.
    OtherRows {
        alias: &'a str,
        rows: usize,
        expected: usize,
    },
}

impl<'a> Part<'a> {
    pub fn of(output: &Output<'a>, rows: &Range<usize>) -> Self {
        Self { alias: output.alias, rows: output.rows(rows) }
    }

    /// The approximate size of the output as text, in bytes.
    pub fn about(&self) -> usize {
        self.alias.len() + TEXT * (self.rows.bytes.len() / self.rows.dtype.size()) + 2 * self.rows.text.len()
    }

    /// The number of the output's rows, and the shape of a row.
    fn split(&self) -> Result<(usize, &'a [usize]), Unwritten<'a>> {
        if let Some(rows) = self.rows.rows {
            return Ok((rows, self.rows.inner));
        }
        let (rows, inner) = self.rows.inner.split_first().ok_or(Unwritten::Scalar(self.alias))?;
        Ok((*rows, inner))
    }

    /// Writes one of its rows, on one line.
    fn write_row(&self, inner: &[usize], row: usize, several: bool, out: &mut Growing<'_>) -> Result<(), NoMemory> {
        let size = inner.iter().product::<usize>() * self.rows.dtype.size();
        let bytes = &self.rows.bytes[row * size..(row + 1) * size];
        let depth = inner.len() + 2 + usize::from(several);
        self.lists(None, depth).write(inner, bytes, out)
    }

    /// Writes the whole output as one value, at this nesting level, with each element on a line of its own.
    fn write_whole(&self, level: usize, out: &mut Growing<'_>) -> Result<(), NoMemory> {
        let shape: Vec<_> = self.rows.rows.into_iter().chain(self.rows.inner.iter().copied()).collect();
        self.lists(Some(level), level + shape.len()).write(&shape, self.rows.bytes, out)
    }

    fn lists(&self, level: Option<usize>, depth: usize) -> Lists<'a> {
        let as_base64 = self.alias.ends_with(BYTES_SUFFIX);
        Lists { dtype: self.rows.dtype, text: self.rows.text, as_base64, level, depth }
    }
}

/// Writes the body that answers a :predict: `predictions`, row by row, or `outputs`, each as a whole.
///
/// Writes nothing if the answer is row by row and the outputs have different numbers of rows.
pub fn write_predict<'a>(parts: &[Part<'a>], by_row: bool, out: &mut Growing<'_>) -> Result<(), Unwritten<'a>> {
    if by_row {
        return write_rows(parts, out);
    }
    Ok(write_columns(parts, out)?)
}

fn write_columns(parts: &[Part<'_>], out: &mut Growing<'_>) -> Result<(), NoMemory> {
    out.room(BETWEEN)?;
    write_member(0, b"outputs", out);
    match parts {
        [only] => only.write_whole(1, out)?,
        several => {
            for (number, part) in several.iter().enumerate() {
                out.put_u8(if number == 0 { b'{' } else { b',' });
                out.room(ESCAPED * part.alias.len() + BETWEEN)?;
                write_name(2, part.alias.as_bytes(), out);
                part.write_whole(2, out)?;
            }
            write_line(1, out);
            out.put_u8(b'}');
        }
    }
    out.put_slice(b"\n}");
    Ok(())
}

fn write_rows<'a>(parts: &[Part<'a>], out: &mut Growing<'_>) -> Result<(), Unwritten<'a>> {
    let mut split: SmallVec<[(usize, &[usize]); 2]> = SmallVec::new();
    for part in parts {
        let (rows, inner) = part.split()?;
        let expected = split.first().map_or(rows, |first| first.0);
        if rows != expected {
            return Err(Unwritten::OtherRows { alias: part.alias, rows, expected });
        }
        split.push((rows, inner));
    }
    let expected = split.first().map_or(0, |first| first.0);
    out.room(BETWEEN)?;
    out.put_slice(b"{\n    \"predictions\": [");
    for row in 0..expected {
        match (parts, split.as_slice()) {
            ([only], [(_, inner)]) => {
                out.put_slice(if row > 0 { b", " } else { b"" });
                only.write_row(inner, row, false, out)?;
            }
            _ => {
                out.put_slice(if row > 0 { b"," } else { b"" });
                write_record(parts.iter().zip(&split).map(|(part, (_, inner))| (part, *inner)), row, out)?;
            }
        }
    }
    out.put_slice(if expected > 0 { b"\n    ]\n}" } else { b"]\n}" });
    Ok(())
}

/// Writes the body of an answer that is an error.
pub fn write_error(text: &str, out: &mut BytesMut) {
    write_member(0, b"error", out);
    write_string(text.as_bytes(), out);
    out.put_slice(b"\n}");
}

fn write_record<'a>(
    parts: impl Iterator<Item = (&'a Part<'a>, &'a [usize])>,
    row: usize,
    out: &mut Growing<'_>,
) -> Result<(), NoMemory> {
    write_line(2, out);
    for (number, (part, inner)) in parts.enumerate() {
        out.put_u8(if number == 0 { b'{' } else { b',' });
        out.room(ESCAPED * part.alias.len() + BETWEEN)?;
        write_name(3, part.alias.as_bytes(), out);
        part.write_row(inner, row, true, out)?;
    }
    write_line(2, out);
    out.put_u8(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::write_decimal;
    use crate::memory::unlimited;

    fn part<'a>(alias: &'a str, dtype: Dtype, rows: Option<usize>, inner: &'a [usize], bytes: &'a [u8]) -> Part<'a> {
        Part { alias, rows: Rows { dtype, rows, inner, bytes, text: &[] } }
    }

    fn written(write: impl FnOnce(&mut Growing<'_>)) -> String {
        let memory = unlimited();
        let mut out = Growing::new(0, &memory);
        write(&mut out);
        String::from_utf8(out.into_bytes().to_vec()).unwrap()
    }

    fn rows(parts: &[Part<'_>]) -> String {
        written(|out| write_rows(parts, out).unwrap())
    }

    fn columns(parts: &[Part<'_>]) -> String {
        written(|out| write_columns(parts, out).unwrap())
    }

    #[test]
    fn rows_of_one_output_lie_on_one_line() {
        let bytes = [1_f32, 2.5, 3.0, 4.0].map(f32::to_le_bytes).concat();
        let text = "{\n    \"predictions\": [[1.0, 2.5], [3.0, 4.0]\n    ]\n}";
        assert_eq!(rows(&[part("y", Dtype::Float, Some(2), &[2], &bytes)]), text);
        assert_eq!(rows(&[part("y", Dtype::Float, None, &[2, 2], &bytes)]), text);
        assert_eq!(rows(&[part("y", Dtype::Float, None, &[0, 2], &[])]), "{\n    \"predictions\": []\n}");
    }

    #[test]
    fn a_row_may_be_long() {
        let values: Vec<_> = (0..100).map(|number| number as f32 / 7.0).collect();
        let bytes: Vec<_> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let texts: Vec<_> = values.iter().map(|value| decimal(*value)).collect();
        let text = format!("{{\n    \"predictions\": [[{}]\n    ]\n}}", texts.join(", "));
        assert_eq!(rows(&[part("y", Dtype::Float, Some(1), &[100], &bytes)]), text);
    }

    fn decimal(value: f32) -> String {
        let mut out = BytesMut::new();
        write_decimal(value, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn rows_of_several_outputs_are_objects() {
        let parts = [part("y", Dtype::Bool, Some(1), &[], &[0]), part("z", Dtype::Int8, Some(1), &[1], &[-7_i8 as u8])];
        let text = "{\n    \"predictions\": [\n        {\n            \"y\": false,\n            \"z\": [-7]\n        }\n    ]\n}";
        assert_eq!(rows(&parts), text);
    }

    #[test]
    fn outputs_with_other_numbers_of_rows_are_not_written() {
        let scalar = part("y", Dtype::Uint8, None, &[], &[1]);
        let memory = unlimited();
        let mut out = Growing::new(0, &memory);
        assert_eq!(write_rows(&[scalar], &mut out), Err(Unwritten::Scalar("y")));
        let parts = [part("y", Dtype::Uint8, None, &[1], &[1]), part("z", Dtype::Uint8, None, &[2], &[1, 2])];
        let misfit = Unwritten::OtherRows { alias: "z", rows: 2, expected: 1 };
        assert_eq!(write_rows(&parts, &mut out), Err(misfit));
        assert!(out.is_empty());
    }

    #[test]
    fn columns_have_a_line_for_each_element() {
        let output = |rows| part("y", Dtype::Uint8, Some(rows), &[1], &[1, 2][..rows]);
        let text = "{\n    \"outputs\": [\n        [\n            1\n        ],\n        [\n            2\n        ]\n    ]\n}";
        assert_eq!(columns(&[output(2)]), text);
        assert_eq!(columns(&[part("y", Dtype::Uint8, None, &[], &[7])]), "{\n    \"outputs\": 7\n}");
        let several = "{\n    \"outputs\": {\n        \"y\": [\n            [\n                1\n            ]\n        ],\n        \
                       \"e\": [\n            []\n        ]\n    }\n}";
        assert_eq!(columns(&[output(1), part("e", Dtype::Uint8, Some(1), &[0], &[])]), several);
    }
}

//! Writes arrays as the body of an answer: TF Serving's numbers, lists and white space, as in
//! `services/tf_serving/rest/outputs.py`.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::elements::BASE64_KEY;
use crate::json::{ESCAPED, LONGEST, put_decimal, write_decimal, write_line, write_string};
use crate::memory::{Growing, NoMemory};
use crate::predict::Output;
use crate::protobuf::{Dtype, Rows, texts};

/// The approximate size of an element, including the separator.
const TEXT: usize = 16;

/// TF Serving: a string output whose alias ends with this is answered as base64, under this key.
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

/// More than the size of all separators, braces and line breaks between two values, without their indentation. Each
/// value takes this much room for what follows it.
pub(super) const BETWEEN: usize = 64;

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

/// Writes the opening brace of an object, and the name of its first member.
pub(super) fn write_member(level: usize, name: &[u8], out: &mut BytesMut) {
    out.put_u8(b'{');
    write_name(level + 1, name, out);
}

fn write_name(level: usize, name: &[u8], out: &mut BytesMut) {
    write_line(level, out);
    write_string(name, out);
    out.put_slice(b": ");
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

/// How elements are combined into lists: all on one line, or with each element of a list on a line of its own.
#[derive(Clone, Copy)]
struct Lists<'a> {
    dtype: Dtype,
    /// The text that contains the strings.
    text: &'a [u8],
    /// Whether the strings are written as base64.
    as_base64: bool,
    /// The level of indentation; None for one line.
    level: Option<usize>,
    /// The number of objects and lists around each element.
    depth: usize,
}

impl Lists<'_> {
    fn write(self, shape: &[usize], bytes: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
        let Some((&size, inner)) = shape.split_first() else { return self.write_element(bytes, out) };
        out.room(self.between())?;
        if size == 0 {
            out.put_slice(b"[]");
            return Ok(());
        }
        if let (true, None, Dtype::Float) = (inner.is_empty(), self.level, self.dtype) {
            return write_floats(bytes, out); // most answers are such lists
        }
        let within = Self { level: self.level.map(|level| level + 1), ..self };
        out.put_u8(b'[');
        let stride = bytes.len() / size;
        for item in 0..size {
            match within.level {
                None if item > 0 => out.put_slice(b", "),
                Some(_) if item > 0 => out.put_u8(b','),
                _ => {}
            }
            within.level.inspect(|level| write_line(*level, out));
            within.write(inner, &bytes[item * stride..(item + 1) * stride], out)?;
        }
        out.room(self.between())?;
        self.level.inspect(|level| write_line(*level, out));
        out.put_u8(b']');
        Ok(())
    }

    /// The maximum number of bytes between a value and the next one.
    fn between(self) -> usize {
        BETWEEN + 8 * self.level.unwrap_or_default()
    }
}

impl Lists<'_> {
    fn write_element(self, bytes: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
        if self.dtype == Dtype::String {
            return texts::strings(bytes, self.text).try_for_each(|string| self.write_string(string, out));
        }
        out.room(LONGEST + self.between())?;
        write_number(self.dtype, bytes, out);
        Ok(())
    }

    fn write_string(self, string: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
        if !self.as_base64 {
            out.room(ESCAPED * string.len() + self.between())?;
            write_string(string, out);
            return Ok(());
        }
        out.room(2 * string.len() + BETWEEN + 8 * self.depth)?;
        out.put_u8(b'{');
        write_name(self.depth + 1, BASE64_KEY, out);
        out.put_u8(b'"');
        write_base64(string, out);
        out.put_u8(b'"');
        write_line(self.depth, out);
        out.put_u8(b'}');
        out.room(self.between())
    }
}

fn write_base64(bytes: &[u8], out: &mut BytesMut) {
    const AT_ONCE: usize = 3 << 10; // a multiple of 3, so that only the last part is padded
    let mut text = [0; AT_ONCE / 3 * 4];
    for part in bytes.chunks(AT_ONCE) {
        let size = STANDARD.encode_slice(part, &mut text).expect("the text has a third more bytes than the part");
        out.put_slice(&text[..size]);
    }
}

/// Writes a list of floats on one line. Their text is collected and added to the output in large parts.
fn write_floats(bytes: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
    const TOGETHER: usize = 16 * LONGEST;
    let mut text = [b'['; TOGETHER];
    let mut size = 1;
    for (number, element) in bytes.as_chunks().0.iter().enumerate() {
        if size + 2 + LONGEST >= TOGETHER {
            out.room(size + BETWEEN)?;
            out.extend_from_slice(&text[..size]);
            size = 0;
        }
        if number > 0 {
            text[size..size + 2].copy_from_slice(b", ");
            size += 2;
        }
        let place = text[size..].first_chunk_mut().expect("there is room for any number");
        size += put_decimal(f32::from_le_bytes(*element), place);
    }
    text[size] = b']';
    out.room(size + BETWEEN)?;
    out.extend_from_slice(&text[..=size]);
    Ok(())
}

fn write_number(dtype: Dtype, bytes: &[u8], out: &mut BytesMut) {
    match dtype {
        Dtype::Float => write_decimal(f32::from_le_bytes(element(bytes)), out),
        Dtype::Double => write_decimal(f64::from_le_bytes(element(bytes)), out),
        Dtype::Int32 => write_integer(i32::from_le_bytes(element(bytes)), out),
        Dtype::Uint8 => write_integer(u8::from_le_bytes(element(bytes)), out),
        Dtype::Int16 => write_integer(i16::from_le_bytes(element(bytes)), out),
        Dtype::Int8 => write_integer(i8::from_le_bytes(element(bytes)), out),
        Dtype::Int64 => write_integer(i64::from_le_bytes(element(bytes)), out),
        Dtype::Uint32 => write_integer(u32::from_le_bytes(element(bytes)), out),
        Dtype::Uint64 => write_integer(u64::from_le_bytes(element(bytes)), out),
        Dtype::Bool => out.put_slice(if bytes == [0] { b"false" } else { b"true" }),
        Dtype::Half | Dtype::Uint16 | Dtype::String => debug_assert!(false, "`is_written` excludes these types"),
    }
}

fn element<const SIZE: usize>(bytes: &[u8]) -> [u8; SIZE] {
    bytes.try_into().expect("an element has the size of its type")
}

fn write_integer(value: impl itoa::Integer, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
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

//! Writes the values of an output: numbers, strings, the lists around them, and the names of members.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};

use super::elements::BASE64_KEY;
use crate::json::{ESCAPED, LONGEST, put_decimal, write_decimal, write_line, write_string};
use crate::memory::{Growing, NoMemory};
use crate::protobuf::{Dtype, texts};

/// More than the size of all separators, braces and line breaks between two values, without their indentation. This
/// much room is made together with that for a value.
pub(super) const BETWEEN: usize = 64;

/// Writes the opening brace of an object, and the name of its first member.
pub(super) fn write_member(level: usize, name: &[u8], out: &mut BytesMut) {
    out.put_u8(b'{');
    write_name(level + 1, name, out);
}

/// Writes the name of a member on a line of its own.
pub(super) fn write_name(level: usize, name: &[u8], out: &mut BytesMut) {
    write_line(level, out);
    write_string(name, out);
    out.put_slice(b": ");
}

/// How elements are combined into lists: all on one line, or with each element of a list on a line of its own.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    pub dtype: Dtype,
    /// The text that contains the strings.
    pub text: &'a [u8],
    /// Whether the strings are written as base64.
    pub as_base64: bool,
    /// The level of indentation; None for one line.
    pub level: Option<usize>,
    /// The number of objects and lists around each element.
    pub depth: usize,
}

impl Lists<'_> {
    /// Writes an array of this shape.
    pub fn write(self, shape: &[usize], bytes: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
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

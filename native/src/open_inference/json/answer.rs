//! A plain answer's body: JSON that describes each output, followed by the bytes of those that are wanted as binary
//! data.
//!
//! The body equals that of `services/open_inference/rest/outputs.py` byte for byte.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use crate::json::{ESCAPED, LONGEST, write_compact_string};
use crate::memory::{CallMemory, Growing, NoMemory};
use crate::open_inference::datatype;
use crate::predict::Output;
use crate::protobuf::{Dtype, Rows};

/// The approximate size of one value as text, in bytes.
const TEXT: usize = 20;

/// The approximate size of an answer, or of an output in it, without the values, in bytes.
const ENVELOPE: usize = 128;

/// The common part of all answers of one version.
pub struct Format {
    /// The part of the body from the model's name to the beginning of the outputs.
    model: Bytes,
}

/// A body, and how many bytes of it are JSON; None if it is only JSON.
pub type Written = (Bytes, Option<usize>);

impl Format {
    pub fn new(name: &str, version: i64) -> Self {
        let mut model = BytesMut::new();
        model.put_slice(b"\"model_name\":");
        write_compact_string(name, &mut model);
        model.put_slice(b",\"model_version\":\"");
        write_integer(version, &mut model);
        model.put_slice(b"\",\"outputs\":[");
        Self { model: model.freeze() }
    }

    /// An answer with these rows of each output; `binary` says which of them are wanted as binary data.
    ///
    /// None if an output that is wanted as JSON has half floats, which Python refuses, or strings, which it writes.
    pub fn write(
        &self,
        id: &str,
        outputs: &[(Output<'_>, bool)],
        rows: &Range<usize>,
        memory: &CallMemory,
    ) -> Result<Option<Written>, NoMemory> {
        let mut parts: Vec<_> =
            outputs.iter().map(|(output, binary)| (output.alias, output.rows(rows), *binary)).collect();
        parts.sort_by_key(|part| part.0);
        if parts.iter().any(|(_, rows, binary)| !binary && matches!(rows.dtype, Dtype::Half | Dtype::String)) {
            return Ok(None);
        }
        let mut out = Growing::new(ENVELOPE + parts.iter().map(about).sum::<usize>(), memory);
        out.room(id.len() + self.model.len() + ENVELOPE)?;
        out.put_u8(b'{');
        if !id.is_empty() {
            out.put_slice(b"\"id\":\"");
            out.put_slice(id.as_bytes()); // plain IDs contain nothing to escape
            out.put_slice(b"\",");
        }
        out.put_slice(&self.model);
        for (number, (name, rows, binary)) in parts.iter().enumerate() {
            out.put_slice(if number > 0 { b"," } else { b"" });
            write_output(name, rows, *binary, &mut out)?;
        }
        out.room(ENVELOPE)?;
        out.put_slice(b"]}");
        let json = out.len();
        let mut behind = parts.iter().filter(|part| part.2).peekable();
        let json = behind.peek().map(|_| json);
        for (_, rows, _) in behind {
            out.room(rows.bytes.len())?;
            out.put_slice(rows.bytes);
        }
        Ok(Some((out.into_bytes().freeze(), json)))
    }
}

/// The approximate size of an output in bytes.
fn about((_, rows, binary): &(&str, Rows<'_>, bool)) -> usize {
    ENVELOPE + if *binary { rows.bytes.len() } else { TEXT * (rows.bytes.len() / rows.dtype.size()) }
}

fn write_output(name: &str, rows: &Rows<'_>, binary: bool, out: &mut Growing<'_>) -> Result<(), NoMemory> {
    out.room(ESCAPED * name.len() + TEXT * rows.shape().count() + ENVELOPE)?;
    out.put_slice(b"{\"name\":");
    write_compact_string(name, out);
    out.put_slice(b",\"datatype\":\"");
    out.put_slice(datatype(rows.dtype).as_bytes());
    out.put_slice(b"\",\"shape\":[");
    for (axis, size) in rows.shape().enumerate() {
        out.put_slice(if axis > 0 { b"," } else { b"" });
        write_integer(size, out);
    }
    if binary {
        out.put_slice(b"],\"parameters\":{\"binary_data_size\":");
        write_integer(rows.bytes.len(), out);
        out.put_slice(b"}}");
        return Ok(());
    }
    out.put_slice(b"],\"data\":[");
    write_values(rows.dtype, rows.bytes, out)?;
    out.room(ENVELOPE)?;
    out.put_slice(b"]}");
    Ok(())
}

fn write_values(dtype: Dtype, bytes: &[u8], out: &mut Growing<'_>) -> Result<(), NoMemory> {
    match dtype {
        Dtype::Float => each(bytes, out, |value, out| write_double(f32::from_le_bytes(value).into(), out)),
        Dtype::Double => each(bytes, out, |value, out| write_double(f64::from_le_bytes(value), out)),
        Dtype::Int8 => each(bytes, out, |value, out| write_integer(i8::from_le_bytes(value), out)),
        Dtype::Int16 => each(bytes, out, |value, out| write_integer(i16::from_le_bytes(value), out)),
        Dtype::Int32 => each(bytes, out, |value, out| write_integer(i32::from_le_bytes(value), out)),
        Dtype::Int64 => each(bytes, out, |value, out| write_integer(i64::from_le_bytes(value), out)),
        Dtype::Uint8 => each(bytes, out, |value, out| write_integer(u8::from_le_bytes(value), out)),
        Dtype::Uint16 => each(bytes, out, |value, out| write_integer(u16::from_le_bytes(value), out)),
        Dtype::Uint32 => each(bytes, out, |value, out| write_integer(u32::from_le_bytes(value), out)),
        Dtype::Uint64 => each(bytes, out, |value, out| write_integer(u64::from_le_bytes(value), out)),
        Dtype::Bool => each(bytes, out, |[value], out| out.put_slice(if value == 0 { b"false" } else { b"true" })),
        Dtype::Half | Dtype::String => {
            debug_assert!(false, "`write` excludes these types");
            Ok(())
        }
    }
}

fn each<const SIZE: usize>(
    bytes: &[u8],
    out: &mut Growing<'_>,
    write: impl Fn([u8; SIZE], &mut BytesMut),
) -> Result<(), NoMemory> {
    let (elements, _) = bytes.as_chunks::<SIZE>();
    for (number, element) in elements.iter().enumerate() {
        out.room(LONGEST + 1)?;
        if number > 0 {
            out.put_u8(b',');
        }
        write(*element, out);
    }
    Ok(())
}

/// Writes the shortest digits that read back as the same double; NaN and infinity are bare words, as in Triton's
/// answers.
fn write_double(value: f64, out: &mut BytesMut) {
    if value.is_finite() {
        out.put_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        out.put_slice(b"NaN");
    } else {
        out.put_slice(if value > 0.0 { b"Infinity" } else { b"-Infinity" });
    }
}

fn write_integer(value: impl itoa::Integer, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes the body of an answer that is an error.
pub fn write_error(text: &str, out: &mut BytesMut) {
    out.put_slice(b"{\"error\":");
    write_compact_string(text, out);
    out.put_u8(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::unlimited;

    fn written(id: &str, outputs: &[(Output<'_>, bool)]) -> Option<(String, Option<usize>)> {
        let (body, json) = Format::new("m\"1", 3).write(id, outputs, &(1..2), &unlimited()).unwrap()?;
        Some((String::from_utf8(body.to_vec()).unwrap(), json))
    }

    fn output<'a>(alias: &'a str, dtype: Dtype, shape: &'a [usize], bytes: &'a [u8]) -> Output<'a> {
        Output { alias, dtype, shape, bytes, text: &[], whole: false }
    }

    #[test]
    fn values_in_json_and_in_binary_data() {
        let floats = [9.0, 9.0, 0.1, f32::NAN].map(f32::to_le_bytes).concat();
        let (y, a) = (output("y", Dtype::Float, &[2, 2], &floats), output("a", Dtype::Uint8, &[2, 2], b"__ab"));
        let head = r#""model_name":"m\"1","model_version":"3","outputs":["#;
        let (a_json, a_bytes) = (r#""data":[97,98]}"#, r#""parameters":{"binary_data_size":2}}"#);
        for (binary, of_a) in [(false, a_json), (true, a_bytes)] {
            let json = format!(
                r#"{{"id":"i",{head}{{"name":"a","datatype":"UINT8","shape":[1,2],{of_a},{{"name":"y","datatype":"FP32","shape":[1,2],"data":[0.10000000149011612,NaN]}}]}}"#
            );
            let (body, size) = written("i", &[(y.clone(), false), (a.clone(), binary)]).unwrap();
            assert_eq!(size, binary.then_some(json.len()));
            assert_eq!(body, if binary { json + "ab" } else { json });
        }
    }

    #[test]
    fn half_floats_are_binary_data() {
        let half = output("h", Dtype::Half, &[2], &[0; 4]);
        assert_eq!(written("", &[(half.clone(), false)]), None);
        assert!(written("", &[(half, true)]).is_some());
    }

    #[test]
    fn errors() {
        let mut out = BytesMut::new();
        write_error("a\"\u{1f}", &mut out);
        assert_eq!(out, &b"{\"error\":\"a\\\"\\u001f\"}"[..]);
    }
}

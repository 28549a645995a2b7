//! The values of TensorFlow Serving's JSON: a number or a boolean of a type, and strings, as text or as base64.

use base64::engine::general_purpose::STANDARD;
use base64::{Engine, decoded_len_estimate};

use crate::json::Reader;
use crate::memory::put;
use crate::protobuf::{Dtype, texts};

/// As in TF Serving, an object with only this key is a base64-encoded string.
pub const BASE64_KEY: &[u8] = b"b64";

/// Whether the next object is a base64-encoded string, judging by its first key.
pub fn is_base64(reader: &Reader<'_>) -> bool {
    let mut ahead = reader.clone();
    ahead.expect(b'{').and_then(|()| ahead.string()) == Some(BASE64_KEY)
}

/// Reads one element. TF Serving's json_tensor.cc reads narrow integers as integers of 32 bits, and truncates them.
pub fn read_element(dtype: Dtype, reader: &mut Reader<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    match dtype {
        Dtype::Float => put(bytes, &reader.single()?.to_le_bytes()),
        Dtype::Double => put(bytes, &reader.decimal()?.to_le_bytes()),
        Dtype::Int64 => put(bytes, &reader.integer()?.signed()?.to_le_bytes()),
        Dtype::Uint64 => put(bytes, &reader.integer()?.unsigned()?.to_le_bytes()),
        Dtype::Uint32 => put(bytes, &u32::try_from(reader.integer()?.unsigned()?).ok()?.to_le_bytes()),
        Dtype::Int32 => put(bytes, &narrow(reader)?.to_le_bytes()),
        Dtype::Int16 => put(bytes, &(narrow(reader)? as i16).to_le_bytes()),
        Dtype::Int8 | Dtype::Uint8 => put(bytes, &(narrow(reader)? as u8).to_le_bytes()),
        Dtype::Bool => put(bytes, &[u8::from(reader.boolean()?)]),
        // JSON cannot express the first two types; strings are read by `read_string`.
        Dtype::Uint16 | Dtype::Half | Dtype::String => None,
    }
}

/// Reads a string, written as text or as base64, and adds it to the elements of a column.
pub fn put_string(reader: &mut Reader<'_>, places: &mut Vec<u8>, text: &mut Vec<u8>) -> Option<()> {
    let start = text.len();
    read_string(reader, text)?;
    texts::put_span(start, text.len() - start, places)
}

/// Reads a string, written as text or as base64, and adds its bytes to `text`.
pub fn read_string(reader: &mut Reader<'_>, text: &mut Vec<u8>) -> Option<()> {
    if reader.peek()? == b'{' {
        reader.expect(b'{')?;
        (reader.string()? == BASE64_KEY).then_some(())?;
        reader.expect(b':')?;
        let encoded = reader.string()?;
        text.try_reserve(decoded_len_estimate(encoded.len())).ok()?;
        STANDARD.decode_vec(encoded, text).ok()?;
        return reader.expect(b'}');
    }
    let start = text.len();
    reader.text(text)?;
    std::str::from_utf8(&text[start..]).ok().map(drop)
}

fn narrow(reader: &mut Reader<'_>) -> Option<i32> {
    reader.integer()?.signed()?.try_into().ok()
}

//! A tensor's values in JSON: lists of numbers or of booleans, with any nesting.

use crate::json::Reader;
use crate::memory::put;
use crate::protobuf::Dtype;

/// The maximum depth of lists; Python handles deeper ones.
const MAX_DEPTH: usize = 16;

/// Reads the values of a JSON list, nested or flat, and appends them to `bytes` in little-endian order. Returns their
/// number, or None if Python must handle the list.
pub fn read_values(reader: &mut Reader<'_>, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<usize> {
    let before = bytes.len();
    read_list(reader, dtype, bytes, MAX_DEPTH)?;
    Some((bytes.len() - before) / dtype.size())
}

fn read_list(reader: &mut Reader<'_>, dtype: Dtype, bytes: &mut Vec<u8>, depth: usize) -> Option<()> {
    let deeper = depth.checked_sub(1)?;
    let element = |reader: &mut Reader<'_>| match reader.peek()? {
        b'[' => read_list(reader, dtype, bytes, deeper),
        _ => read_element(dtype, reader, bytes),
    };
    reader.list(element).map(drop)
}

/// Reads one element. As in Triton, a number is read as 64 bits, and a narrower type gets the lower ones.
fn read_element(dtype: Dtype, reader: &mut Reader<'_>, bytes: &mut Vec<u8>) -> Option<()> {
    match dtype {
        Dtype::Float => put(bytes, &reader.single()?.to_le_bytes()),
        Dtype::Double => put(bytes, &reader.decimal()?.to_le_bytes()),
        Dtype::Bool => put(bytes, &[u8::from(reader.boolean()?)]),
        Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64 => {
            put(bytes, &reader.integer()?.signed()?.to_le_bytes()[..dtype.size()])
        }
        Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32 | Dtype::Uint64 => {
            put(bytes, &reader.integer()?.unsigned()?.to_le_bytes()[..dtype.size()])
        }
        // Python refuses half floats in JSON, as Triton does, and decodes the strings.
        Dtype::Half | Dtype::String => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, dtype: Dtype) -> Option<Vec<u8>> {
        let (mut reader, mut bytes) = (Reader::new(text.as_bytes()), Vec::new());
        let count = read_values(&mut reader, dtype, &mut bytes).filter(|_| reader.peek().is_none())?;
        assert_eq!(count * dtype.size(), bytes.len());
        Some(bytes)
    }

    #[test]
    fn nesting_does_not_matter() {
        let flat = [1_f32, 2.0, 0.5].map(f32::to_le_bytes).concat();
        for text in ["[1, 2.0, 5e-1]", "[[1,2],[0.5]]", "[1,[[2]],[0.5]]"] {
            assert_eq!(read(text, Dtype::Float), Some(flat.clone()), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_truncated() {
        assert_eq!(read("[300, -1]", Dtype::Int8), Some(vec![44, 255]));
        assert_eq!(read("[65537]", Dtype::Uint16), Some(vec![1, 0]));
        assert_eq!(read("[9223372036854775808]", Dtype::Uint64), Some(vec![0, 0, 0, 0, 0, 0, 0, 128]));
        assert_eq!(read("[true,false]", Dtype::Bool), Some(vec![1, 0]));
    }

    #[test]
    fn values_that_are_not_plain() {
        let deep = format!("{}1{}", "[".repeat(17), "]".repeat(17));
        for (text, dtype) in [
            ("1", Dtype::Float),
            ("[]", Dtype::Float),
            ("[[1],[]]", Dtype::Float),
            ("[NaN]", Dtype::Float),
            ("[\"1\"]", Dtype::Float),
            ("[true]", Dtype::Float),
            ("[1.0]", Dtype::Int32),
            ("[-1]", Dtype::Uint8),
            ("[9223372036854775808]", Dtype::Int64),
            ("[18446744073709551615]", Dtype::Uint64),
            ("[1]", Dtype::Bool),
            ("[1]", Dtype::Half),
            (&deep, Dtype::Float),
        ] {
            assert_eq!(read(text, dtype), None, "{text}");
        }
    }
}

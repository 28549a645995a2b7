//! Protobuf's wire format: as much of it as the plain Predict needs.

use bytes::{BufMut, Bytes, BytesMut};

use super::rope::Cursor;

pub const VARINT: u8 = 0;
pub const LENGTH: u8 = 2;
pub const FIXED32: u8 = 5;

/// The next varint; None if there is no whole one.
pub fn varint(at: &mut Cursor<'_>) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = at.byte()?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte < 0x80 {
            // The tenth byte has room for one bit.
            return (shift < 63 || byte <= 1).then_some(value);
        }
    }
    None
}

/// The next field's number and wire type.
pub fn tag(at: &mut Cursor<'_>) -> Option<(u32, u8)> {
    let tag = u32::try_from(varint(at)?).ok()?;
    Some((tag >> 3, (tag & 7) as u8))
}

/// What a length-delimited field holds.
pub fn delimited<'a>(at: &mut Cursor<'a>) -> Option<Cursor<'a>> {
    let len = usize::try_from(varint(at)?).ok()?;
    at.within(len)
}

pub fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// The bytes of a length-delimited field that holds `len`.
pub fn field_len(field: u32, len: usize) -> usize {
    varint_len(u64::from(field) << 3) + varint_len(len as u64) + len
}

pub fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

pub fn put_tag(out: &mut BytesMut, field: u32, kind: u8) {
    put_varint(out, u64::from(field << 3 | u32::from(kind)));
}

/// The head of a length-delimited field.
pub fn put_field(out: &mut BytesMut, field: u32, len: usize) {
    put_tag(out, field, LENGTH);
    put_varint(out, len as u64);
}

/// A ModelSpec, as an answer has it.
pub fn model_spec(name: &str, version: i64, signature: &str) -> Bytes {
    let mut number = BytesMut::new();
    if version != 0 {
        put_tag(&mut number, 1, VARINT);
        put_varint(&mut number, version as u64);
    }
    let mut spec = BytesMut::new();
    for (field, value) in [(1, name.as_bytes()), (2, &number), (3, signature.as_bytes())] {
        put_field(&mut spec, field, value.len());
        spec.put_slice(value);
    }
    spec.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Rope;

    #[test]
    fn varints_there_and_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            let rope = Rope::from(out.freeze());
            assert_eq!(varint(&mut rope.cursor()), Some(value));
        }
    }

    #[test]
    fn varints_that_are_none() {
        for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            let rope = Rope::from(bytes::Bytes::copy_from_slice(bytes));
            assert_eq!(varint(&mut rope.cursor()), None);
        }
    }
}

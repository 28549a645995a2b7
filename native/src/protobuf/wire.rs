//! Protobuf's wire format: the parts that plain requests need.

use super::rope::Cursor;

pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const LENGTH: u8 = 2;
pub const FIXED32: u8 = 5;
/// The maximum length of a varint in bytes.
pub const VARINT_ROOM: usize = 10;

/// Reads the next varint; None if there is no complete one.
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

/// Reads the next field's number and wire type.
pub fn tag(at: &mut Cursor<'_>) -> Option<(u32, u8)> {
    let tag = u32::try_from(varint(at)?).ok()?;
    Some((tag >> 3, (tag & 7) as u8))
}

/// Reads the length of a length-delimited field, and returns the content.
pub fn delimited<'a>(at: &mut Cursor<'a>) -> Option<Cursor<'a>> {
    let len = usize::try_from(varint(at)?).ok()?;
    at.within(len)
}

pub fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// The size in bytes of a length-delimited field with `len` bytes of content.
pub fn field_len(field: u32, len: usize) -> usize {
    varint_len(u64::from(field) << 3) + varint_len(len as u64) + len
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{Rope, Writer};

    #[test]
    fn varints_there_and_back() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let out = Writer::message(|out| out.varint(value));
            assert_eq!(out.len(), varint_len(value));
            let rope = Rope::from(out);
            assert_eq!(varint(&mut rope.cursor()), Some(value));
        }
    }

    #[test]
    fn bytes_that_are_no_varint() {
        for bytes in [&[][..], &[0x80], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]] {
            let rope = Rope::from(bytes::Bytes::copy_from_slice(bytes));
            assert_eq!(varint(&mut rope.cursor()), None);
        }
    }
}

//! Tensors on the wire: finds a request's values, and encodes an answer's arrays.

use super::dtype::Dtype::{self, Bool, Int8, Int16, Int32, Int64, String};
use super::rope::{Cursor, Rope};
use super::{Writer, texts, wire};

#[cfg(target_endian = "big")]
compile_error!("tensor_content is little-endian, and is copied as it is");

/// The field number of `tensor_content` in a TensorProto.
pub const CONTENT: u32 = 4;

/// The position of a tensor's values in its message.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    start: usize,
    raw: bool,
}

impl Values {
    /// The position of the values in `tensor_content`. None for strings, for bools other than 0 and 1, and unless there
    /// are exactly `count` values.
    pub fn content(dtype: Dtype, count: usize, mut at: Cursor<'_>) -> Option<Self> {
        if dtype == String || at.left() != count.checked_mul(dtype.size())? {
            return None;
        }
        let values = Self { start: at.position(), raw: true };
        if dtype == Bool {
            while let Some(byte) = at.byte() {
                (byte <= 1).then_some(())?;
            }
        }
        Some(values)
    }

    /// The values of a packed `*_val` field; None unless there are exactly `count`.
    pub fn packed(dtype: Dtype, count: usize, mut at: Cursor<'_>) -> Option<Self> {
        if dtype.raw() {
            return Self::content(dtype, count, at);
        }
        let values = Self { start: at.position(), raw: false };
        for _ in 0..count {
            wire::varint(&mut at)?;
        }
        (at.left() == 0).then_some(values)
    }

    /// Writes the values as an array's bytes; `target` has exactly their size.
    pub fn copy_to(&self, message: &Rope, dtype: Dtype, target: &mut [u8]) {
        if self.raw {
            return message.copy_to(self.start, target);
        }
        let mut at = message.cursor();
        // Cannot fail, since `packed` has already read all values.
        let _ = at.skip(self.start);
        for item in target.chunks_exact_mut(dtype.size()) {
            let value = wire::varint(&mut at).unwrap_or_default();
            let value = if dtype == Bool { u64::from(value != 0) } else { value };
            item.copy_from_slice(&value.to_le_bytes()[..dtype.size()]);
        }
    }
}

/// Some rows of an output, to be written as a TensorProto. Without a number of rows, it is the whole output, and
/// `inner` is its shape.
pub struct Rows<'a> {
    pub dtype: Dtype,
    pub rows: Option<usize>,
    pub inner: &'a [usize],
    pub bytes: &'a [u8],
    /// The text that contains the elements, if they are strings.
    pub text: &'a [u8],
}

impl<'a> Rows<'a> {
    /// The elements that are strings.
    pub fn strings(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
        texts::strings(self.bytes, self.text)
    }

    /// The size of the elements in bytes.
    pub fn size(&self) -> usize {
        if self.dtype == String { self.strings().map(<[u8]>::len).sum() } else { self.bytes.len() }
    }

    /// The size of the TensorProto in bytes.
    pub fn encoded_len(&self, as_content: bool) -> usize {
        let head = 1 + wire::varint_len(self.dtype.number()) + wire::field_len(2, self.shape_len());
        if self.bytes.is_empty() {
            return head;
        }
        if self.dtype == String && !as_content {
            return head + self.strings().map(|string| wire::field_len(String.field(), string.len())).sum::<usize>();
        }
        head + wire::field_len(self.field(as_content), self.values_len(as_content))
    }

    /// Writes the TensorProto as TF Serving does: with every dimension, and with all values in the `*_val` field unless
    /// `as_content` is set.
    pub fn encode(&self, as_content: bool, out: &mut Writer<'_>) {
        self.encode_dtype_and_shape(out);
        if self.bytes.is_empty() {
            return;
        }
        if self.dtype == String && !as_content {
            return self.strings().for_each(|string| {
                out.field(String.field(), string.len());
                out.slice(string);
            });
        }
        out.field(self.field(as_content), self.values_len(as_content));
        if self.dtype == String {
            self.strings().for_each(|string| out.varint(string.len() as u64));
            self.strings().for_each(|string| out.slice(string));
        } else if as_content || self.dtype.raw() {
            out.slice(self.bytes);
        } else {
            self.values().for_each(|value| out.varint(value));
        }
    }

    /// Writes the TensorProto of numbers up to their bytes, which the caller must append.
    pub fn encode_before_content(&self, out: &mut Writer<'_>) {
        self.encode_dtype_and_shape(out);
        if !self.bytes.is_empty() {
            out.field(CONTENT, self.bytes.len());
        }
    }

    fn encode_dtype_and_shape(&self, out: &mut Writer<'_>) {
        out.tag(1, wire::VARINT);
        out.varint(self.dtype.number());
        out.field(2, self.shape_len());
        for size in self.shape() {
            out.field(2, dim_len(size));
            if size > 0 {
                out.tag(1, wire::VARINT);
                out.varint(size as u64);
            }
        }
    }

    fn field(&self, as_content: bool) -> u32 {
        if as_content { CONTENT } else { self.dtype.field() }
    }

    /// The tensor's dimensions.
    pub fn shape(&self) -> impl Iterator<Item = usize> {
        self.rows.into_iter().chain(self.inner.iter().copied())
    }

    fn shape_len(&self) -> usize {
        self.shape().map(|size| wire::field_len(2, dim_len(size))).sum()
    }

    fn values_len(&self, as_content: bool) -> usize {
        if self.dtype == String {
            return self.strings().map(|string| wire::varint_len(string.len() as u64) + string.len()).sum();
        }
        if as_content || self.dtype.raw() {
            return self.bytes.len();
        }
        self.values().map(wire::varint_len).sum()
    }

    /// The values as protobuf encodes them in varints: negative ones with their sign in all 64 bits.
    fn values(&self) -> impl Iterator<Item = u64> {
        let size = self.dtype.size();
        let signed = matches!(self.dtype, Int8 | Int16 | Int32 | Int64);
        self.bytes.chunks_exact(size).map(move |item| {
            let fill = if signed && item[size - 1] >= 0x80 { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..size].copy_from_slice(item);
            u64::from_le_bytes(wide)
        })
    }
}

fn dim_len(size: usize) -> usize {
    if size == 0 { 0 } else { 1 + wire::varint_len(size as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::Dtype::{Double, Float, Uint16, Uint32};
    use bytes::Bytes;

    fn rope(bytes: &[u8]) -> Rope {
        Bytes::copy_from_slice(bytes).into()
    }

    #[test]
    fn counts_are_checked() {
        for (bytes, count, fits) in [(&[0; 8][..], 2, true), (&[0; 8], 1, false), (&[0; 7], 2, false)] {
            let rope = rope(bytes);
            assert_eq!(Values::content(Float, count, rope.cursor()).is_some(), fits);
        }
        assert!(Values::content(Double, usize::MAX, rope(&[0; 8]).cursor()).is_none());
        assert!(Values::content(Bool, 2, rope(&[0, 2]).cursor()).is_none());
        assert!(Values::packed(Int64, 2, rope(&[1, 0x80]).cursor()).is_none());
        assert!(Values::packed(Int64, 1, rope(&[1, 1]).cursor()).is_none());
    }

    #[test]
    fn narrow_integers_travel_as_varints() {
        for (dtype, bytes) in
            [(Int8, &[0xff, 5][..]), (Int16, &[0xfe, 0xff, 1, 0]), (Uint16, &[0xff, 0xff]), (Bool, &[1, 0])]
        {
            let count = bytes.len() / dtype.size();
            let rows = Rows { dtype, rows: Some(count), inner: &[], bytes, text: &[] };
            let message = rope(&Writer::message(|out| rows.values().for_each(|value| out.varint(value))));
            let mut back = vec![0; bytes.len()];
            Values::packed(dtype, count, message.cursor()).unwrap().copy_to(&message, dtype, &mut back);
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn lengths_are_those_of_the_bytes() {
        for as_content in [false, true] {
            for (dtype, bytes) in [(Float, &[0; 8][..]), (Int32, &[0xff; 8]), (Uint32, &[0xff; 8]), (Float, &[])] {
                let rows = Rows { dtype, rows: Some(bytes.len() / 4), inner: &[1, 0], bytes, text: &[] };
                let out = Writer::message(|out| rows.encode(as_content, out));
                assert_eq!(out.len(), rows.encoded_len(as_content));
            }
        }
    }
}

//! The element types of plain tensors: their numbers, sizes and fields in protobuf, and their names in numpy.

use std::ffi::CStr;

use super::texts;

/// The element types that a plain tensor may have: numbers, and strings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Float,
    Double,
    Int32,
    Uint8,
    Int16,
    Int8,
    /// Strings of any length: an element is the position of a string (`texts`).
    String,
    Int64,
    Bool,
    Uint16,
    Half,
    Uint32,
    Uint64,
}

use Dtype::{Bool, Double, Float, Half, Int8, Int16, Int32, Int64, String, Uint8, Uint16, Uint32, Uint64};

// Each type with its number in types.proto, its size in bytes, and the number of its value field.
const DTYPES: [(Dtype, u64, usize, u32); Dtype::COUNT] = [
    (Float, 1, 4, 5),
    (Double, 2, 8, 6),
    (Int32, 3, 4, 7),
    (Uint8, 4, 1, 7),
    (Int16, 5, 2, 7),
    (Int8, 6, 1, 7),
    (String, 7, texts::SPAN, 8),
    (Int64, 9, 8, 10),
    (Bool, 10, 1, 11),
    (Uint16, 17, 2, 7),
    (Half, 19, 2, 13),
    (Uint32, 22, 4, 16),
    (Uint64, 23, 8, 17),
];

impl Dtype {
    /// The number of types.
    pub const COUNT: usize = 13;

    pub fn of_number(number: u64) -> Option<Self> {
        DTYPES.iter().find(|row| row.1 == number).map(|row| row.0)
    }

    /// The numbers of all types in types.proto.
    pub fn numbers() -> impl Iterator<Item = u64> {
        DTYPES.iter().map(|row| row.1)
    }

    /// The dtype for a format and an element size in bytes, as in the buffer protocol.
    pub fn of_format(format: &CStr, size: usize) -> Option<Self> {
        let letter = match format.to_bytes() {
            [letter] | [b'<' | b'=' | b'@', letter] => letter,
            _ => return None,
        };
        match (letter, size) {
            (b'f', 4) => Some(Float),
            (b'd', 8) => Some(Double),
            (b'e', 2) => Some(Half),
            (b'?', 1) => Some(Bool),
            (b'b', 1) => Some(Int8),
            (b'B', 1) => Some(Uint8),
            (b'h', 2) => Some(Int16),
            (b'H', 2) => Some(Uint16),
            (b'i' | b'l' | b'q', 4) => Some(Int32),
            (b'I' | b'L' | b'Q', 4) => Some(Uint32),
            (b'i' | b'l' | b'q', 8) => Some(Int64),
            (b'I' | b'L' | b'Q', 8) => Some(Uint64),
            _ => None,
        }
    }

    fn row(self) -> &'static (Dtype, u64, usize, u32) {
        DTYPES.iter().find(|row| row.0 == self).expect("every dtype has a row")
    }

    pub fn number(self) -> u64 {
        self.row().1
    }

    pub fn size(self) -> usize {
        self.row().2
    }

    /// numpy's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Float => "f4",
            Double => "f8",
            Half => "f2",
            Bool => "?",
            Int8 => "i1",
            String => "O",
            Int16 => "i2",
            Int32 => "i4",
            Int64 => "i8",
            Uint8 => "u1",
            Uint16 => "u2",
            Uint32 => "u4",
            Uint64 => "u8",
        }
    }

    /// The number of the type's `*_val` field in a TensorProto.
    pub fn field(self) -> u32 {
        self.row().3
    }

    /// Whether the `*_val` field contains the array's bytes unchanged.
    pub fn raw(self) -> bool {
        matches!(self, Float | Double)
    }
}

//! JSON outside the interpreter: rules that all readers share, and TF Serving's spelling of values.

mod decimal;
mod float;
mod reader;
mod text;

pub use decimal::{put_decimal, write_decimal};
pub use reader::{Number, Reader, once};
pub use text::{ESCAPED, write_compact_string, write_line, write_string};

/// A number of bytes that no number exceeds: at most 17 digits, a sign, a point and an exponent of five characters.
pub const LONGEST: usize = 32;

/// Powers of ten that are exact as doubles.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// The power of ten of the first digit of a number from `2^exponent` up to twice that, or one less.
#[inline(always)]
fn least_power(exponent: i32) -> i32 {
    // Multiplies by log10(2), rounded down.
    ((i64::from(exponent) * 315_653) >> 20) as i32
}

//! Writes floating-point numbers as TF Serving does: six digits if they read back the same, otherwise as many as
//! needed.
//!
//! In TF Serving this is json_tensor.cc, WriteDecimal: `printf("%.6g")`, or otherwise `%.9g` for a float and `%.17g` for
//! a double. The digits are computed exactly: in `float.rs` for most floats, and here with integers of 128 bits for the
//! others. The few numbers that do not fit are left to the standard library, which is slower.

use bytes::{BufMut, BytesMut};

use super::float::write_float;
use super::{LONGEST, TENS, least_power};

/// The number of digits to try first.
const SHORT: u32 = 6;

/// Numbers with a smaller power of ten may be subnormal floats, which have fewer digits.
const LEAST_NORMAL: i32 = -37;

/// Powers of five whose products with a float's 24 bits fit into 128 bits.
const FIVES: [u128; 56] = powers();

const fn powers() -> [u128; 56] {
    let mut table = [1_u128; 56];
    let mut at = 1;
    while at < table.len() {
        table[at] = table[at - 1] * 5;
        at += 1;
    }
    table
}

/// A float or a double.
pub trait Decimal: Copy {
    /// The number of digits that distinguish any two values.
    const DIGITS: u32;

    fn widened(self) -> f64;

    /// Whether this is the number of its type that is nearest to a double.
    fn is_nearest(self, double: f64) -> bool;

    /// Writes a number if there is a faster way for it; returns the number of bytes.
    fn quickly(self, _: &mut [u8; LONGEST]) -> Option<usize> {
        None
    }
}

impl Decimal for f32 {
    const DIGITS: u32 = 9;

    fn widened(self) -> f64 {
        self.into()
    }

    fn is_nearest(self, double: f64) -> bool {
        double as f32 == self
    }

    #[inline(always)]
    fn quickly(self, out: &mut [u8; LONGEST]) -> Option<usize> {
        write_float(self, out)
    }
}

impl Decimal for f64 {
    const DIGITS: u32 = 17;

    fn widened(self) -> f64 {
        self
    }

    fn is_nearest(self, double: f64) -> bool {
        double == self
    }
}

/// Writes a number.
pub fn write_decimal(number: impl Decimal, out: &mut BytesMut) {
    let mut text = [0; LONGEST];
    let size = put_decimal(number, &mut text);
    out.put_slice(&text[..size]);
}

/// Writes a number; returns the number of bytes.
#[inline]
pub fn put_decimal(number: impl Decimal, out: &mut [u8; LONGEST]) -> usize {
    number.quickly(out).unwrap_or_else(|| put_any(number, out))
}

#[inline(never)]
fn put_any(number: impl Decimal, out: &mut [u8; LONGEST]) -> usize {
    let value = number.widened();
    let mut text = Text { bytes: out, size: 0 };
    if value.is_nan() {
        text.put(b"NaN");
        return text.size;
    }
    if value.is_sign_negative() {
        text.put(b"-");
    }
    if value.is_infinite() {
        text.put(b"Infinity");
    } else if value == 0.0 {
        text.put(b"0.0");
    } else {
        rounded(number, value.abs()).write(&mut text);
    }
    text.size
}

/// The digits with which a number is written; `size` is its absolute value.
fn rounded(number: impl Decimal, size: f64) -> Rounded {
    let long = Rounded::of(size, digits_of(number));
    if !long.may_be_short() {
        return long;
    }
    let short = Rounded::of(size, SHORT);
    let reads_back = number.is_nearest(short.value().copysign(number.widened()));
    if reads_back { short } else { long }
}

fn digits_of<T: Decimal>(_: T) -> u32 {
    T::DIGITS
}

/// A number's significant digits, and the power of ten of the first one.
struct Rounded {
    digits: u64,
    count: u32,
    power: i32,
}

impl Rounded {
    /// A positive, finite number rounded to this many digits, half to even.
    fn of(value: f64, count: u32) -> Self {
        Self::quickly(value, count).unwrap_or_else(|| Self::slowly(value, count))
    }

    fn quickly(value: f64, count: u32) -> Option<Self> {
        let (mantissa, exponent) = parts(value)?;
        let mut power = least_power(63 - mantissa.leading_zeros() as i32 + exponent);
        let most = 10_u64.pow(count);
        let last = count as i32 - 1;
        let mut scaled = Scaled::of(mantissa, exponent, last - power)?;
        if scaled.whole >= most.into() {
            power += 1;
            scaled = Scaled::of(mantissa, exponent, last - power)?;
        }
        let digits = scaled.rounded();
        // 9.99…: rounded up to one more digit.
        Some(if digits == most {
            Self { digits: most / 10, count, power: power + 1 }
        } else {
            Self { digits, count, power }
        })
    }

    fn slowly(value: f64, count: u32) -> Self {
        let text = format!("{value:.*e}", count as usize - 1);
        let (mantissa, power) = text.split_once('e').expect("the format has an exponent");
        let digits = mantissa.bytes().filter(u8::is_ascii_digit);
        let digits = digits.fold(0, |value, digit| value * 10 + u64::from(digit - b'0'));
        Self { digits, count, power: power.parse().expect("an exponent is a number") }
    }

    /// Whether the number might also be written with `SHORT` digits: whether its digits are close enough to a number of
    /// that many.
    ///
    /// The number and its shortest form then differ by at most half the distance between two neighbouring numbers. This
    /// half is at most 60 units of the last of nine digits of a float, or 12 units of the last of seventeen digits of a
    /// double.
    fn may_be_short(&self) -> bool {
        const NEAR: u64 = 64;
        let unit = 10_u64.pow(self.count - SHORT);
        let rest = self.digits % unit;
        rest <= NEAR || unit - rest <= NEAR || self.power < LEAST_NORMAL
    }

    /// The double that these digits read back as.
    fn value(&self) -> f64 {
        let power = self.power + 1 - self.count as i32;
        match TENS.get(power.unsigned_abs() as usize) {
            Some(ten) if power < 0 => self.digits as f64 / ten,
            Some(ten) => self.digits as f64 * ten,
            None => format!("{}e{power}", self.digits).parse().expect("it is a number"),
        }
    }

    /// Writes the digits as `%g` does, but always with a point or an exponent.
    fn write(&self, out: &mut Text<'_>) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(self.digits).trim_end_matches('0').as_bytes();
        if self.power < -4 || self.power >= self.count as i32 {
            return self.write_with_exponent(digits, out);
        }
        let point = self.power + 1;
        if point <= 0 {
            out.put(&b"0.000"[..2 + point.unsigned_abs() as usize]);
            return out.put(digits);
        }
        let point = point as usize;
        if digits.len() <= point {
            out.put(digits);
            out.put(&ZEROS[..point - digits.len()]);
            return out.put(b".0");
        }
        out.put(&digits[..point]);
        out.put(b".");
        out.put(&digits[point..]);
    }

    fn write_with_exponent(&self, digits: &[u8], out: &mut Text<'_>) {
        out.put(&digits[..1]);
        if digits.len() > 1 {
            out.put(b".");
            out.put(&digits[1..]);
        }
        let power = self.power.unsigned_abs();
        out.put(if self.power < 0 { b"e-" } else { b"e+" });
        out.put(if power < 10 { b"0" } else { b"" });
        out.put(itoa::Buffer::new().format(power).as_bytes());
    }
}

const ZEROS: &[u8; 17] = &[b'0'; 17];

/// The text of one number, of which `size` bytes have been written.
struct Text<'a> {
    bytes: &'a mut [u8; LONGEST],
    size: usize,
}

impl Text<'_> {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.size..self.size + part.len()].copy_from_slice(part);
        self.size += part.len();
    }
}

/// A positive number as a mantissa and a power of two; None for a subnormal one.
fn parts(value: f64) -> Option<(u64, i32)> {
    const FRACTION: u32 = 52;
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION) as i32;
    let mantissa = (bits & ((1 << FRACTION) - 1)) | 1 << FRACTION;
    let zeros = mantissa.trailing_zeros();
    (exponent > 0).then_some((mantissa >> zeros, exponent - 1075 + zeros as i32))
}

/// A number times a power of ten: its integer part, and how the fractional part compares to a half.
struct Scaled {
    whole: u128,
    rest: std::cmp::Ordering,
}

impl Scaled {
    /// `mantissa * 2^exponent * 10^power`; None if it does not fit into 128 bits.
    fn of(mantissa: u64, exponent: i32, power: i32) -> Option<Self> {
        let five = *FIVES.get(power.unsigned_abs() as usize)?;
        let mantissa = u128::from(mantissa);
        let twos = exponent + power;
        if power >= 0 {
            let product = mantissa.checked_mul(five)?;
            return if twos >= 0 { Self::divided(left(product, twos)?, 1) } else { Self::halved(product, -twos) };
        }
        if twos >= 0 { Self::divided(left(mantissa, twos)?, five) } else { Self::divided(mantissa, left(five, -twos)?) }
    }

    fn halved(number: u128, times: i32) -> Option<Self> {
        let times = u32::try_from(times).ok().filter(|times| *times < 128)?;
        let rest = number & ((1 << times) - 1);
        Some(Self { whole: number >> times, rest: rest.cmp(&(1 << (times - 1))) })
    }

    fn divided(number: u128, by: u128) -> Option<Self> {
        if by == 1 {
            return Some(Self { whole: number, rest: std::cmp::Ordering::Less });
        }
        let rest = number % by;
        Some(Self { whole: number / by, rest: rest.cmp(&(by - rest)) })
    }

    fn rounded(&self) -> u64 {
        let up = match self.rest {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => self.whole % 2 == 1,
            std::cmp::Ordering::Greater => true,
        };
        self.whole as u64 + u64::from(up)
    }
}

/// A shift that loses no bit.
fn left(number: u128, by: i32) -> Option<u128> {
    u32::try_from(by).ok().filter(|by| *by <= number.leading_zeros()).map(|by| number << by)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Writes a float by the method that works for all floats.
    pub fn written_exactly(value: f32) -> String {
        let mut text = [0; LONGEST];
        let size = put_any(value, &mut text);
        String::from_utf8(text[..size].to_vec()).unwrap()
    }

    fn written(number: impl Decimal) -> String {
        let mut out = BytesMut::new();
        write_decimal(number, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn floats() {
        for (number, text) in [
            (0.1, "0.1"),
            (1.0 / 3.0, "0.333333343"),
            (9_000_000.0, "9e+06"),
            (3e-5, "3e-05"),
            (2.0, "2.0"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (123_456.0, "123456.0"),
            (1_234_567.0, "1234567.0"),
            (999_999.5, "999999.5"),
            (1_048_576.1, "1048576.12"),
            (f32::MAX, "3.40282347e+38"),
            (f32::MIN_POSITIVE, "1.17549435e-38"),
            (1e-45, "1.4013e-45"),
            (f32::INFINITY, "Infinity"),
            (f32::NEG_INFINITY, "-Infinity"),
            (f32::NAN, "NaN"),
        ] {
            assert_eq!(written(number), text);
        }
    }

    #[test]
    fn doubles() {
        for (number, text) in [
            (0.1, "0.1"),
            (1.0 / 3.0, "0.33333333333333331"),
            (1e300, "1e+300"),
            (123_456_789.0, "123456789.0"),
            (5e-324, "4.94066e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
        ] {
            assert_eq!(written(number), text);
        }
    }

    #[test]
    fn six_digits_are_written_wherever_they_read_back_the_same() {
        let halves = (0..100_000_u32).map(|number| f64::from(number) / 64.0);
        let decimals = (0..100_000_u32).map(|number| f64::from(number) / 1e4);
        let floats = numbers(100_000).map(|bits| f64::from(f32::from_bits(bits as u32)));
        let tiny = (1..2_000).map(|bits| f64::from(f32::from_bits(bits)));
        for value in halves.chain(decimals).chain(floats).chain(tiny).filter(|value| value.is_finite() && *value > 0.0)
        {
            let short = Rounded::of(value, SHORT).value();
            assert_eq!(rounded(value, value).count == SHORT, short == value, "{value:e}");
            let single = value as f32;
            let widened = f64::from(single);
            let short = Rounded::of(widened, SHORT).value() as f32;
            assert_eq!(rounded(single, widened).count == SHORT, short == single, "{single:e}");
        }
    }

    /// A mixture of all magnitudes, from a linear congruential generator.
    fn numbers(count: usize) -> impl Iterator<Item = u64> {
        std::iter::successors(Some(1_u64), |seed| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)))
            .take(count)
            .map(|seed| seed ^ seed >> 33)
    }

    #[test]
    fn exact_arithmetic_agrees_with_the_standard_library() {
        let floats = numbers(200_000).map(|bits| f64::from(f32::from_bits(bits as u32)));
        let doubles = numbers(200_000).map(f64::from_bits);
        let ties = (0..200_000).map(|number| f64::from(number) / 8.0);
        for value in floats.chain(doubles).chain(ties).map(f64::abs).filter(|value| value.is_finite() && *value > 0.0) {
            for count in [SHORT, 9, 17] {
                let slow = Rounded::slowly(value, count);
                let Some(quick) = Rounded::quickly(value, count) else { continue };
                assert_eq!((quick.digits, quick.power), (slow.digits, slow.power), "{value:e} to {count} digits");
            }
        }
    }
}

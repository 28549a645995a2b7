//! Numbers: integers of up to 64 bits, and the nearest doubles.

use super::Reader;
use super::digits::{POWERS, digit, eight_digits, few_digits};
use crate::json::TENS;

/// A number of digits that always fits into 64 bits.
const FITTING: usize = 19;

/// The number of bytes that `usual` inspects at once: a number of the usual form, and the byte after it.
const AHEAD: usize = 40;

/// The number of bytes that `scaled` inspects at once, from the first digit on.
const SCALED: usize = 26;

/// The maximum number of digits before the point of a number of the usual form.
const USUALLY_WHOLE: usize = 8;

/// The largest exponent that is accepted: a larger one may make a number infinite or zero.
const MAX_EXPONENT: i32 = 280;

/// A number, which is an integer or a decimal by the way it is written.
pub enum Number {
    Whole(Integer),
    /// A number with a point or an exponent.
    Decimal(f64),
}

/// An integer with a sign, and a magnitude of at most 64 bits.
pub struct Integer {
    pub negative: bool,
    pub magnitude: u64,
}

impl Integer {
    /// The value as a signed integer of 64 bits; None if it does not fit.
    pub fn signed(&self) -> Option<i64> {
        match self.negative {
            true => 0_i64.checked_sub_unsigned(self.magnitude),
            false => i64::try_from(self.magnitude).ok(),
        }
    }

    /// The value as an unsigned integer; None for a negative number.
    pub fn unsigned(&self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

impl Reader<'_> {
    /// Reads a number that is written as an integer. A zero with a minus sign is refused, since parsers treat it
    /// differently.
    pub fn integer(&mut self) -> Option<Integer> {
        let negative = self.sign()?;
        let (magnitude, digits) = self.whole()?;
        let fits = digits <= FITTING && !matches!(self.byte(), Some(b'.' | b'e' | b'E'));
        (fits && !(negative && magnitude == 0)).then_some(Integer { negative, magnitude })
    }

    /// Reads a number of either kind.
    pub fn number(&mut self) -> Option<Number> {
        let written = self.written()?;
        if written.whole {
            let Written { negative, mantissa, fits, .. } = written;
            return fits.then_some(Number::Whole(Integer { negative, magnitude: mantissa }));
        }
        self.value(&written).map(Number::Decimal)
    }

    /// Reads a number, and returns the nearest double. An integer zero with a minus sign is refused.
    pub fn decimal(&mut self) -> Option<f64> {
        let written = self.written()?;
        self.value(&written)
    }

    /// Reads a number, and returns the float that the nearest double rounds to. An integer zero with a minus sign is
    /// refused.
    #[inline]
    pub fn single(&mut self) -> Option<f32> {
        self.skip_space();
        let written = match self.scaled() {
            Some(written) => written,
            None => self.written()?,
        };
        let value = match written.nearly().filter(|value| rounds_alike(*value)) {
            Some(value) => value,
            None => written.exactly().or_else(|| self.nearest(&written))?,
        };
        Some(written.signed(value) as f32)
    }

    /// Reads a number with one digit before its point and up to 18 after it, as most numbers of a model's inputs are.
    /// Returns None for any other number, and does not read it.
    #[inline(always)]
    fn scaled(&mut self) -> Option<Written> {
        let negative = self.byte()? == b'-';
        let start = self.at + usize::from(negative);
        let text: &[u8; SCALED] = self.data.get(start..)?.first_chunk()?;
        let first = digit(text[0]).filter(|_| text[1] == b'.')?;
        let (value, mut count) = few_digits(*text[2..].first_chunk()?);
        let mut mantissa = first * POWERS[count] + value;
        if count == 8 {
            let (value, more) = few_digits(*text[10..].first_chunk()?);
            (mantissa, count) = (mantissa * POWERS[more] + value, 8 + more);
        }
        if count == 16 {
            let (value, more) = few_digits(*text[18..].first_chunk()?);
            (more <= 2).then_some(())?;
            (mantissa, count) = (mantissa * POWERS[more] + value, 16 + more);
        }
        let ends = count > 0 && !matches!(text[2 + count], b'.' | b'e' | b'E');
        ends.then(|| {
            self.at = start + 2 + count;
            Written { negative, mantissa, exponent: -(count as i32), whole: false, fits: true, start }
        })
    }

    /// Reads the digits of a number, its point and its exponent.
    #[inline]
    fn written(&mut self) -> Option<Written> {
        self.skip_space();
        self.usual().or_else(|| self.unusual())
    }

    /// Like `written`, for a number of the usual form: one without an exponent and with few digits, which is not at the
    /// very end of the document. For any other number, returns None and leaves the position unchanged.
    #[inline(always)]
    fn usual(&mut self) -> Option<Written> {
        let text: &[u8; AHEAD] = self.data.get(self.at..)?.first_chunk()?;
        let negative = text[0] == b'-';
        let start = usize::from(negative);
        let mut at = start;
        let mut mantissa = 0;
        while at < start + USUALLY_WHOLE
            && let Some(digit) = digit(text[at])
        {
            mantissa = mantissa * 10 + digit;
            at += 1;
        }
        let before = at - start;
        let mut exponent = 0;
        let whole = text[at] != b'.';
        if !whole {
            let from = at + 1;
            (mantissa, at) = fraction(text, from, mantissa)?;
            exponent = from as i32 - at as i32;
        }
        let begins_well = before == 1 || before > 1 && text[start] != b'0';
        let digits = if text[start] == b'0' { 0 } else { before } + exponent.unsigned_abs() as usize;
        let ends = !matches!(text[at], b'0'..=b'9' | b'.' | b'e' | b'E');
        let is_usual = begins_well
            && ends
            && digits <= FITTING
            && (exponent < 0 || whole)
            && !(whole && negative && mantissa == 0);
        is_usual.then(|| {
            let start = self.at + start;
            self.at += at;
            Written { negative, mantissa, exponent, whole, fits: true, start }
        })
    }

    fn unusual(&mut self) -> Option<Written> {
        let negative = self.sign()?;
        let start = self.at;
        let (mut mantissa, mut digits) = self.whole()?;
        let mut exponent = 0;
        let mut whole = true;
        if self.byte() == Some(b'.') {
            self.at += 1;
            let from = self.at;
            mantissa = self.digits(mantissa);
            let count = self.at - from;
            (count > 0).then_some(())?;
            digits += count;
            exponent -= i32::try_from(count).ok()?;
            whole = false;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            exponent = exponent.checked_add(self.exponent()?)?;
            whole = false;
        }
        let is_signed_zero = whole && negative && mantissa == 0;
        (!is_signed_zero).then_some(Written { negative, mantissa, exponent, whole, fits: digits <= FITTING, start })
    }

    /// The number that was read last, as the nearest double.
    fn value(&self, written: &Written) -> Option<f64> {
        let value = written.exactly().or_else(|| self.nearest(written))?;
        Some(written.signed(value))
    }

    /// The double nearest to the number that was read last, without its sign; None if it is infinite.
    fn nearest(&self, written: &Written) -> Option<f64> {
        let text = std::str::from_utf8(&self.data[written.start..self.at]).ok()?;
        text.parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// Reads a minus sign if there is one; returns whether there was.
    fn sign(&mut self) -> Option<bool> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        Some(negative)
    }

    /// Reads digits without a superfluous leading zero; returns their value, which is right if there are few, and how
    /// many there are.
    fn whole(&mut self) -> Option<(u64, usize)> {
        let from = self.at;
        let value = self.digits(0);
        let count = self.at - from;
        let begins_well = count == 1 || count > 1 && self.data[from] != b'0';
        begins_well.then_some((value, count))
    }

    /// Reads all further digits, starting from those of `value`.
    fn digits(&mut self, mut value: u64) -> u64 {
        while let Some(eight) = self.data.get(self.at..).and_then(<[u8]>::first_chunk).copied().and_then(eight_digits) {
            value = value.wrapping_mul(100_000_000).wrapping_add(eight);
            self.at += 8;
        }
        while let Some(digit) = self.byte().and_then(digit) {
            value = value.wrapping_mul(10).wrapping_add(digit);
            self.at += 1;
        }
        value
    }

    /// Reads an `e` and the power of ten after it.
    fn exponent(&mut self) -> Option<i32> {
        self.at += 1;
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative || self.byte() == Some(b'+'));
        let from = self.at;
        let value = self.digits(0);
        let value = (1..=3).contains(&(self.at - from)).then_some(value as i32)?;
        (value <= MAX_EXPONENT).then_some(if negative { -value } else { value })
    }
}

/// A number as it is written: `mantissa` times ten to the power of `exponent`, if its digits fit.
struct Written {
    negative: bool,
    mantissa: u64,
    exponent: i32,
    /// Whether there is neither a point nor an exponent.
    whole: bool,
    fits: bool,
    /// The position of the first digit.
    start: usize,
}

impl Written {
    /// The nearest double; None unless one operation on exact numbers yields it.
    fn exactly(&self) -> Option<f64> {
        if self.mantissa > 1 << 53 { None } else { self.nearly() }
    }

    /// The nearest double or one of its neighbours: the mantissa is rounded, and then the result of the operation.
    fn nearly(&self) -> Option<f64> {
        let power = TENS.get(self.exponent.unsigned_abs() as usize).filter(|_| self.fits)?;
        let mantissa = self.mantissa as f64;
        Some(if self.exponent < 0 { mantissa / power } else { mantissa * power })
    }

    fn signed(&self, value: f64) -> f64 {
        if self.negative { -value } else { value }
    }
}

/// Appends the digits at a position, at most 24 of them, to those of `mantissa`; returns the mantissa and the position
/// after the digits. None if the text ends first.
#[inline(always)]
fn fraction(text: &[u8; AHEAD], from: usize, mut mantissa: u64) -> Option<(u64, usize)> {
    let mut at = from;
    while at < from + 24 {
        let (value, count) = few_digits(*text[at..].first_chunk()?);
        mantissa = mantissa.wrapping_mul(POWERS[count]).wrapping_add(value);
        at += count;
        if count < 8 {
            break;
        }
    }
    Some((mantissa, at))
}

/// Whether this double and the three doubles on either side of it all round to the same float, which must be normal.
fn rounds_alike(value: f64) -> bool {
    const REST: u64 = (1 << 29) - 1;
    const HALF: u64 = 1 << 28;
    let rest = value.to_bits() & REST;
    (f64::from(f32::MIN_POSITIVE)..f64::from(f32::MAX)).contains(&value) && rest.abs_diff(HALF) > 3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a number at the end of a document, and again with more text after it, which takes another path.
    fn decimal(text: &str) -> Option<f64> {
        let mut reader = Reader::new(text.as_bytes());
        let last = reader.decimal().filter(|_| reader.peek().is_none());
        for behind in [",", "]", " ", "}"] {
            let longer = format!("{text}{behind}{}", "9".repeat(AHEAD));
            let mut reader = Reader::new(longer.as_bytes());
            let other = reader.decimal().filter(|_| reader.data[reader.at..].starts_with(behind.as_bytes()));
            assert_eq!(other.map(f64::to_bits), last.map(f64::to_bits), "{text}");
        }
        last
    }

    fn integer(text: &str) -> Option<i64> {
        let mut reader = Reader::new(text.as_bytes());
        reader.integer()?.signed().filter(|_| reader.peek().is_none())
    }

    #[test]
    fn decimals_are_the_nearest_doubles() {
        for text in [
            "0",
            "1",
            "-1",
            " 12",
            "0.1",
            "-0.0",
            "0.30471707880496979",
            "123456789012345678901234567890",
            "9007199254740993",
            "1e22",
            "1e23",
            "-2.5E-07",
            "179769313486231570000000000000000000000",
            "4.9406564584124654e-280",
            "0.000000000000000000000000000000000000000000001",
            "7.0064923216240854e-46",
        ] {
            assert_eq!(decimal(text).map(f64::to_bits), text.trim().parse().ok().map(f64::to_bits), "{text}");
        }
    }

    /// Numbers of all sizes, from a linear congruential generator: as `"{mantissa}e{exponent}"`, and as digits with a
    /// decimal point.
    fn texts() -> impl Iterator<Item = String> {
        let seeds = std::iter::successors(Some(1_u64), |seed| {
            Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
        });
        seeds.take(50_000).map(|seed| {
            let (value, shift, power) = (seed ^ seed >> 31, seed >> 58, (seed >> 50) % 50);
            match seed >> 62 {
                0 => format!("{}e{}", value >> shift, power as i32 - 40),
                1 => format!("{:?}", f64::from(f32::from_bits((value >> 32) as u32 & 0x7f7f_ffff))),
                2 => format!("0.{:017}", value % 100_000_000_000_000_000),
                _ => format!("{}.{}", value >> 56, value >> shift),
            }
        })
    }

    #[test]
    fn doubles_and_floats_are_those_of_the_standard_library() {
        for text in texts() {
            let expected: f64 = text.parse().unwrap();
            assert_eq!(decimal(&text).map(f64::to_bits), Some(expected.to_bits()), "{text}");
            for text in [&text, &format!("{text},{}", "9".repeat(AHEAD))] {
                let single = Reader::new(text.as_bytes()).single();
                assert_eq!(single.map(f32::to_bits), Some((expected as f32).to_bits()), "{text}");
            }
        }
    }

    #[test]
    fn a_float_next_to_the_middle_of_two_is_that_of_the_nearest_double() {
        let middle = f64::from(1.0_f32) + f64::from(f32::EPSILON) / 2.0;
        for away in -8_i64..=8 {
            let text = format!("{:.30}", f64::from_bits(middle.to_bits().wrapping_add_signed(away)));
            for digits in [16, 17, 18, 19, 20, 32] {
                let text = &text[..digits];
                let expected = text.parse::<f64>().unwrap() as f32;
                assert_eq!(Reader::new(text.as_bytes()).single(), Some(expected), "{text}");
            }
        }
    }

    #[test]
    fn texts_that_readers_disagree_about_are_no_decimals() {
        for text in ["", "-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "1e1000", "1e999", "-0", "NaN", "1x", "--1"] {
            assert_eq!(decimal(text), None, "{text}");
        }
        let long = format!("1{}", "0".repeat(400));
        assert_eq!(decimal(&long), None);
    }

    #[test]
    fn integers_are_those_written_as_such() {
        assert_eq!(integer("-9223372036854775808"), Some(i64::MIN));
        assert_eq!(integer("9223372036854775807"), Some(i64::MAX));
        for text in ["9223372036854775808", "-9223372036854775809", "1.0", "1e2", "-0", "00", "", "-", "true"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_those_written_without_a_point_or_an_exponent() {
        let read = |text: &str| match Reader::new(text.as_bytes()).number()? {
            Number::Whole(integer) => Some(format!("{}", integer.signed()?)),
            Number::Decimal(value) => Some(format!("{value:?}")),
        };
        for (text, expected) in [("7", "7"), ("-7", "-7"), ("7.0", "7.0"), ("7e0", "7.0"), ("-0.0", "-0.0")] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["-0", "123456789012345678901", "01", "x", "NaN"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

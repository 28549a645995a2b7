//! Numbers: integers of up to 64 bits, and the nearest doubles.

use super::Reader;
use crate::json::TENS;

/// A number of digits that always fits into 64 bits.
const FITTING: usize = 19;

/// A larger exponent may make a number infinite or zero.
const MAX_EXPONENT: i32 = 280;

/// A number, by its spelling.
pub enum Number {
    Whole(Integer),
    /// With a point or an exponent.
    Decimal(f64),
}

/// An integer of at most 64 bits, and its sign.
pub struct Integer {
    pub negative: bool,
    pub magnitude: u64,
}

impl Integer {
    /// None if it does not fit into 64 bits with a sign.
    pub fn signed(&self) -> Option<i64> {
        match self.negative {
            true => 0_i64.checked_sub_unsigned(self.magnitude),
            false => i64::try_from(self.magnitude).ok(),
        }
    }

    /// None for a negative number.
    pub fn unsigned(&self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

impl Reader<'_> {
    /// A number that is written as an integer. A zero with a sign is refused, since parsers differ on it.
    pub fn integer(&mut self) -> Option<Integer> {
        let negative = self.sign()?;
        let (magnitude, digits) = self.whole()?;
        let fits = digits <= FITTING && !matches!(self.byte(), Some(b'.' | b'e' | b'E'));
        (fits && !(negative && magnitude == 0)).then_some(Integer { negative, magnitude })
    }

    /// A number of either kind.
    pub fn number(&mut self) -> Option<Number> {
        let mut whole = self.clone();
        if let Some(integer) = whole.integer() {
            *self = whole;
            return Some(Number::Whole(integer));
        }
        let start = self.at;
        let decimal = self.decimal()?;
        let is_whole = !self.data[start..self.at].iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'));
        (!is_whole).then_some(Number::Decimal(decimal))
    }

    /// A number as the nearest double. An integer zero with a sign is refused.
    pub fn decimal(&mut self) -> Option<f64> {
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
        if whole && negative && mantissa == 0 {
            return None;
        }
        let value = match digits <= FITTING && mantissa <= 1 << 53 {
            true => scaled(mantissa, exponent),
            false => None,
        };
        let value = value.or_else(|| nearest(&self.data[start..self.at]))?;
        Some(if negative { -value } else { value })
    }

    /// Whether there is a minus sign, which is read.
    fn sign(&mut self) -> Option<bool> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        Some(negative)
    }

    /// Digits without a superfluous leading zero: their value, if there are few, and their number.
    fn whole(&mut self) -> Option<(u64, usize)> {
        let from = self.at;
        let value = self.digits(0);
        let count = self.at - from;
        let begins_well = count == 1 || count > 1 && self.data[from] != b'0';
        begins_well.then_some((value, count))
    }

    /// Reads all further digits, starting from those of `value`.
    fn digits(&mut self, mut value: u64) -> u64 {
        while let Some(digit) = self.byte().map(|byte| byte.wrapping_sub(b'0'))
            && digit < 10
        {
            value = value.wrapping_mul(10).wrapping_add(digit.into());
            self.at += 1;
        }
        value
    }

    /// The power of ten after an `e`, which has not been read yet.
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

/// The nearest double if one step of arithmetic gives it.
fn scaled(mantissa: u64, exponent: i32) -> Option<f64> {
    let power = TENS.get(exponent.unsigned_abs() as usize)?;
    let mantissa = mantissa as f64;
    Some(if exponent < 0 { mantissa / power } else { mantissa * power })
}

/// The nearest double, unless it is infinite.
fn nearest(text: &[u8]) -> Option<f64> {
    let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Option<f64> {
        let mut reader = Reader::new(text.as_bytes());
        reader.decimal().filter(|_| reader.peek().is_none())
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

    #[test]
    fn what_readers_differ_on_is_no_decimal() {
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
    fn numbers_are_told_apart_by_how_they_are_written() {
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

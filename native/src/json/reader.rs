//! Parses JSON that every parser treats alike; anything that parsers differ on is None, for a more careful parser.

/// Digits that always fit 64 bits.
const FITTING: usize = 19;

/// A larger exponent may make a number infinite or zero.
const MAX_EXPONENT: i32 = 280;

/// Powers of ten that are exact as doubles.
const EXACT: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A place in the bytes of a document.
#[derive(Clone)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// Where it lets other threads go first.
    pause: usize,
}

/// Bytes between two pauses: some tenths of a millisecond. Linux may let a thread run for several at once while others wait
/// for its core, whatever its priority.
const STRETCH: usize = 64 << 10;

/// A number, by how it is written.
pub enum Number {
    Whole(Integer),
    /// With a point or an exponent.
    Decimal(f64),
}

/// A whole number of at most 64 bits, and its sign.
pub struct Integer {
    pub negative: bool,
    pub magnitude: u64,
}

impl Integer {
    /// None where 64 bits with a sign do not hold it.
    pub fn signed(&self) -> Option<i64> {
        match self.negative {
            true => 0_i64.checked_sub_unsigned(self.magnitude),
            false => i64::try_from(self.magnitude).ok(),
        }
    }

    /// None for a negative one.
    pub fn unsigned(&self) -> Option<u64> {
        (!self.negative).then_some(self.magnitude)
    }
}

/// Fills a place for what may be given once.
pub fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, pause: STRETCH }
    }

    /// Bytes that have not been read.
    pub fn left(&self) -> usize {
        self.data.len() - self.at
    }

    fn byte(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The next byte that is not white space, which is not read yet.
    pub fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.byte()
    }

    /// The next byte that is not white space.
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Reads this byte, behind white space.
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A list, each of its elements read by a function; how many they are. None for an empty one.
    pub fn list(&mut self, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<usize> {
        self.expect(b'[')?;
        let mut count = 0;
        loop {
            element(self)?;
            count += 1;
            if self.at >= self.pause {
                self.pause = self.at + STRETCH;
                std::thread::yield_now();
            }
            match self.next()? {
                b',' => {}
                b']' => return Some(count),
                _ => return None,
            }
        }
    }

    /// An object, each of its members read by a function that is told the key.
    pub fn object(&mut self, mut member: impl FnMut(&'a [u8], &mut Self) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            return self.expect(b'}');
        }
        loop {
            let key = self.string()?;
            self.expect(b':')?;
            member(key, self)?;
            match self.next()? {
                b',' => {}
                b'}' => return Some(()),
                _ => return None,
            }
        }
    }

    /// Passes over a list or an object, well-formed or not: who reads it later finds that out.
    pub fn skip(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => drop(self.string()?),
                byte => {
                    self.at += 1;
                    match byte {
                        b'[' | b'{' => depth += 1,
                        b']' | b'}' => depth = depth.checked_sub(1)?,
                        _ => {}
                    }
                }
            }
            if depth == 0 {
                return matches!(self.data[self.at - 1], b']' | b'}').then_some(());
            }
        }
    }

    /// A string without escapes; its bytes may be no UTF-8.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.data[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
        self.at += end + 1;
        (rest[end] == b'"').then_some(&rest[..end])
    }

    /// Adds a string with its escapes undone; its bytes may be no UTF-8.
    pub fn text(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = &self.data[self.at..];
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
            out.extend_from_slice(&rest[..end]);
            self.at += end + 1;
            match rest[end] {
                b'"' => return Some(()),
                b'\\' => self.escape(out)?,
                _ => return None,
            }
        }
    }

    /// What stands behind a backslash.
    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let letter = self.byte()?;
        self.at += 1;
        out.push(match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                out.extend_from_slice(self.scalar()?.encode_utf8(&mut [0; 4]).as_bytes());
                return Some(());
            }
            _ => return None,
        });
        Some(())
    }

    /// The character that one code unit of UTF-16 stands for, or two; half a pair stands for none.
    fn scalar(&mut self) -> Option<char> {
        let first = self.code_unit()?;
        if !matches!(first, 0xd800..=0xdbff) {
            return char::from_u32(first);
        }
        self.data[self.at..].starts_with(b"\\u").then(|| self.at += 2)?;
        let second = self.code_unit().filter(|second| matches!(second, 0xdc00..=0xdfff))?;
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    /// Four hexadecimal digits.
    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.data.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    }

    /// `true` or `false`.
    pub fn boolean(&mut self) -> Option<bool> {
        let value = self.peek()? == b't';
        let word: &[u8] = if value { b"true" } else { b"false" };
        self.data[self.at..].starts_with(word).then(|| self.at += word.len())?;
        Some(value)
    }

    /// An integer that is written as one. A zero with a sign is refused, since parsers differ on it.
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

    /// A number as the nearest double. A whole zero with a sign is none.
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

    /// Whether a minus is there, which is read.
    fn sign(&mut self) -> Option<bool> {
        let negative = self.peek()? == b'-';
        self.at += usize::from(negative);
        Some(negative)
    }

    /// Digits that do not begin with a zero too many: what they say, as long as there are few, and how many they are.
    fn whole(&mut self) -> Option<(u64, usize)> {
        let from = self.at;
        let value = self.digits(0);
        let count = self.at - from;
        let begins_well = count == 1 || count > 1 && self.data[from] != b'0';
        begins_well.then_some((value, count))
    }

    /// Reads all digits that there are, on from those of `value`.
    fn digits(&mut self, mut value: u64) -> u64 {
        while let Some(digit) = self.byte().map(|byte| byte.wrapping_sub(b'0'))
            && digit < 10
        {
            value = value.wrapping_mul(10).wrapping_add(digit.into());
            self.at += 1;
        }
        value
    }

    /// The power of ten behind an `e`, which has not been read.
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

/// The nearest double where one step of arithmetic gives it.
fn scaled(mantissa: u64, exponent: i32) -> Option<f64> {
    let power = EXACT.get(exponent.unsigned_abs() as usize)?;
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
    fn strings_have_no_escapes() {
        assert_eq!(Reader::new(b" \"a\xff\"").string(), Some(&b"a\xff"[..]));
        for text in ["\"a", "\"\\n\"", "\"\n\"", "a\"", ""] {
            assert_eq!(Reader::new(text.as_bytes()).string(), None, "{text}");
        }
    }

    #[test]
    fn texts_have_their_escapes_undone() {
        let read = |text: &str| {
            let mut out = vec![b'-'];
            Reader::new(text.as_bytes()).text(&mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(read(r#" "a\"\\\/\b\f\n\r\t\u00e9\uD83D\ude00\u0000""#).unwrap(), "-a\"\\/\u{8}\u{c}\n\r\té😀\0");
        for text in [
            r#""\x""#,
            r#""\u12""#,
            r#""\u+123""#,
            r#""\ud83d""#,
            r#""\ud83dx""#,
            r#""\ude00""#,
            r#""\ud83d\u0041""#,
            "\"\n\"",
            "\"a",
        ] {
            assert_eq!(read(text), None, "{text}");
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

    #[test]
    fn booleans() {
        let read = |text: &str| Reader::new(text.as_bytes()).boolean();
        assert_eq!(
            (read("true"), read(" false"), read("True"), read("tru"), read("")),
            (Some(true), Some(false), None, None, None)
        );
    }
}

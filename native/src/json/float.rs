//! Writes most floats between 0.0001 and a billion, using integers of 64 bits.

use super::{LONGEST, TENS, least_power};

/// The number of digits that distinguish any two floats.
const DIGITS: i32 = 9;

/// Integers with `DIGITS` digits are smaller than this.
const MOST: u64 = 1_000_000_000;

/// The smallest integer with `DIGITS` digits.
const LEAST: u64 = MOST / 10;

/// The power of ten of the smallest numbers that are written without an exponent: 1e-4.
const LEAST_POWER: i32 = -4;

/// If six digits are enough to write a number, its nine digits are, as an integer, close to a multiple of this.
const SIX: u64 = 1_000;
/// The smallest power of ten at which a number of six digits is written with an exponent because it is large.
const SHORT: i32 = 6;

const FIVES: [u64; 13] = {
    let mut table = [1; 13];
    let mut at = 1;
    while at < table.len() {
        table[at] = table[at - 1] * 5;
        at += 1;
    }
    table
};

/// Writes a float that needs no exponent, as `%.6g` or `%.9g` does; returns the number of bytes. None for any other
/// float, and for some of these; the caller must write them by another method.
#[inline(always)]
pub fn write_float(value: f32, out: &mut [u8; LONGEST]) -> Option<usize> {
    let (digits, power) = digits_of(value.abs())?;
    let negative = value.is_sign_negative();
    out[0] = b'-';
    let at = usize::from(negative);
    let (text, count) = text_of(digits);
    Some(
        at + if power < 0 {
            put_small(&text, (count, power), out, at)
        } else {
            put_large(&text, (count, power), out, at)
        },
    )
}

/// Nine digits of a number, and the power of ten of the first digit. The number is rounded half to even: to six digits,
/// which are followed by zeros, or to nine if six digits read back as another number.
fn digits_of(value: f32) -> Option<(u64, i32)> {
    const FRACTION: u32 = 23;
    let bits = value.to_bits();
    let exponent = (bits >> FRACTION) as i32 - 127;
    let mut power = least_power(exponent);
    let mantissa = u64::from(bits & ((1 << FRACTION) - 1) | 1 << FRACTION);
    let mut scaled = Scaled::of(mantissa, exponent - FRACTION as i32, DIGITS - 1 - power)?;
    if scaled.whole >= MOST {
        power += 1;
        scaled = Scaled::of(mantissa, exponent - FRACTION as i32, DIGITS - 1 - power)?;
    }
    let rest = scaled.whole % SIX;
    let (mut digits, mut most) = (scaled.whole + u64::from(scaled.up), DIGITS);
    // The exact number is so close to a number of six digits that both perhaps read back as the same float.
    if rest <= scaled.error || SIX - rest <= scaled.error {
        let six = scaled.whole / SIX + u64::from(rest > scaled.error);
        if six_read_back(six, power)? == value {
            (digits, most) = (six * SIX, SHORT);
        }
    }
    (digits < MOST && (LEAST_POWER..most).contains(&power)).then_some((digits, power))
}

/// The float that six digits read back as, given the power of ten of the first one.
fn six_read_back(six: u64, power: i32) -> Option<f32> {
    let last = power + 1 - SHORT;
    let ten = TENS.get(last.unsigned_abs() as usize)?;
    Some(if last < 0 { six as f64 / ten } else { six as f64 * ten } as f32)
}

/// A number times a power of ten.
struct Scaled {
    whole: u64,
    /// Whether rounding adds one to `whole`.
    up: bool,
    /// More than the distance to any other number that is rounded to the same float.
    error: u64,
}

impl Scaled {
    /// `mantissa * 2^exponent * 10^power`, for a mantissa of 24 bits whose product is at most ten billion.
    #[inline(always)]
    fn of(mantissa: u64, exponent: i32, power: i32) -> Option<Self> {
        let five = *FIVES.get(usize::try_from(power).ok()?)?;
        let by = u32::try_from(-(exponent + power)).ok().filter(|by| (1..64).contains(by))?;
        let product = mantissa * five;
        let (whole, rest, half) = (product >> by, product & ((1 << by) - 1), 1 << (by - 1));
        Some(Self { whole, up: rest + (whole & 1) > half, error: (five >> by) + 2 })
    }
}

/// Nine digits as text, followed by zeros, and the number of digits without zeros at the end.
fn text_of(digits: u64) -> ([u8; 24], usize) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    let (first, others) = (digits / LEAST, digits % LEAST);
    // Split three times: into groups of four digits, into pairs, and into single digits, the first in the lowest byte.
    let fours = (others / 10_000) | (others % 10_000) << 32;
    let hundreds = ((fours * 10_486) >> 20) & 0x7f_0000_007f;
    let pairs = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((pairs * 103) >> 10) & 0x000f_000f_000f_000f;
    let single = tens | (pairs - 10 * tens) << 8;
    let mut text = [b'0'; 24];
    text[0] = b'0' + first as u8;
    text[1..9].copy_from_slice(&(single | ZEROS).to_le_bytes());
    (text, 9 - single.leading_zeros() as usize / 8)
}

/// Writes a number below one.
#[inline(always)]
fn put_small(text: &[u8; 24], (count, power): (usize, i32), out: &mut [u8; LONGEST], at: usize) -> usize {
    let from = 1 + power.unsigned_abs() as usize;
    out[at..at + 8].copy_from_slice(b"0.000000");
    out[at + from..at + from + 16].copy_from_slice(&text[..16]);
    from + count
}

/// Writes a number of at least one.
#[inline(always)]
fn put_large(text: &[u8; 24], (count, power): (usize, i32), out: &mut [u8; LONGEST], at: usize) -> usize {
    let point = power as usize + 1;
    out[at..at + 16].copy_from_slice(&text[..16]);
    out[at + point] = b'.';
    out[at + point + 1..at + point + 9].copy_from_slice(&text[point..point + 8]);
    count.max(point + 1) + 1
}

#[cfg(test)]
mod tests {
    use super::super::decimal::tests::written_exactly;
    use super::*;

    /// Checks a number, if it is written by this method; returns whether it is.
    fn is_right(value: f32) -> bool {
        let mut text = [0; LONGEST];
        let Some(size) = write_float(value, &mut text) else { return false };
        assert_eq!(std::str::from_utf8(&text[..size]).unwrap(), written_exactly(value), "{value:e}");
        true
    }

    #[test]
    fn floats_are_those_of_exact_arithmetic() {
        let mut quick = 0;
        for seed in 0..300_000_u32 {
            // Covers all magnitudes that are written by this method, and some beyond them.
            let bits = 0x3800_0000 + seed.wrapping_mul(2_654_435_761) % (0x4f00_0000 - 0x3800_0000);
            for value in [f32::from_bits(bits), -f32::from_bits(bits)] {
                quick += u32::from(is_right(value));
            }
        }
        assert!(quick > 300_000, "{quick}");
    }

    #[test]
    fn numbers_around_powers_of_ten() {
        for power in -6..11 {
            let near = 10_f32.powi(power).to_bits();
            for bits in near - 200..near + 200 {
                is_right(f32::from_bits(bits));
            }
        }
    }

    #[test]
    fn numbers_of_few_digits_and_their_neighbours() {
        let mut quick = 0;
        for (digits, power) in
            (1..1_000_000_u32).step_by(997).flat_map(|digits| (-11..4).map(move |power| (digits, power)))
        {
            let bits = format!("{digits}e{power}").parse::<f32>().unwrap().to_bits();
            for value in [bits - 1, bits, bits + 1].map(f32::from_bits) {
                quick += u32::from(is_right(value));
            }
        }
        assert!(quick > 20_000, "{quick}");
    }

    #[test]
    fn common_numbers_of_few_digits_are_written_here() {
        for value in [1.0, 0.5, 0.001, 123_456.0, -10.25] {
            assert!(write_float(value, &mut [0; LONGEST]).is_some(), "{value}");
        }
    }

    #[test]
    fn other_numbers_are_not_written() {
        for value in [0.0, 1e-5, 1e6, 2_500_000.0, 1e9, f32::NAN, f32::INFINITY, 1e-40] {
            assert_eq!(write_float(value, &mut [0; LONGEST]), None, "{value}");
        }
    }
}

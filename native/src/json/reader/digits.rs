//! Decimal digits: one, or up to eight at once.

/// Powers of ten for at most eight digits.
pub const POWERS: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

const ZEROS: u64 = 0x3030_3030_3030_3030;

/// The value of a digit; None if a byte is not a digit.
pub fn digit(byte: u8) -> Option<u64> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(digit.into())
}

/// The value of eight digits; None if one of the bytes is not a digit.
pub fn eight_digits(text: [u8; 8]) -> Option<u64> {
    let text = u64::from_le_bytes(text);
    (other_than_digits(text) == 0).then(|| joined(text ^ ZEROS))
}

/// The value of the digits at the beginning of a text, and their number.
#[inline(always)]
pub fn few_digits(text: [u8; 8]) -> (u64, usize) {
    let text = u64::from_le_bytes(text);
    match other_than_digits(text) {
        0 => (joined(text ^ ZEROS), 8),
        others => match others.trailing_zeros() / 8 {
            0 => (0, 0),
            // The shift removes what follows the digits, and puts zeros before them.
            count => (joined((text ^ ZEROS) << (64 - 8 * count)), count as usize),
        },
    }
}

/// Zero if all eight bytes are digits. Otherwise the lowest bit that is set belongs to the first byte that is not a
/// digit.
fn other_than_digits(text: u64) -> u64 {
    const HIGH: u64 = 0xf0f0_f0f0_f0f0_f0f0;
    /// Makes each byte above `9` carry into its high half, and at worst into the next byte.
    const SIX: u64 = 0x0606_0606_0606_0606;
    ((text & HIGH) ^ ZEROS) | ((text.wrapping_add(SIX) & HIGH) ^ ZEROS)
}

/// The number with these eight digits, of which the first is in the lowest byte.
fn joined(digits: u64) -> u64 {
    // Neighbours are combined in three steps: the first of each pair is multiplied by ten, then by a hundred, then by
    // ten thousand.
    let pairs = (digits * 10 + (digits >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs * 100 + (pairs >> 16)) & 0x0000_ffff_0000_ffff;
    (fours * 10_000 + (fours >> 32)) & 0xffff_ffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_digits_at_once() {
        assert_eq!(eight_digits(*b"12345678"), Some(12_345_678));
        assert_eq!((eight_digits(*b"00000000"), eight_digits(*b"99999999")), (Some(0), Some(99_999_999)));
        for byte in (0..=255_u8).filter(|byte| !byte.is_ascii_digit()) {
            for at in 0..8 {
                let mut text = *b"99999999";
                text[at] = byte;
                assert_eq!(eight_digits(text), None, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn a_few_digits_at_once() {
        assert_eq!(few_digits(*b"12345678"), (12_345_678, 8));
        for count in 0..8_usize {
            for byte in (0..=255_u8).filter(|byte| !byte.is_ascii_digit()) {
                let mut text = *b"98765432";
                text[count] = byte;
                assert_eq!(few_digits(text), (98_765_432 / POWERS[8 - count], count), "{byte} at {count}");
            }
        }
    }
}

//! Blocks of headers that leave HPACK's table as it is.

/// Whether a block of headers has only indexed fields and literals that are not added to the table. The block may be
/// malformed in other ways, which h2 finds when it decodes it.
pub fn keeps_table(mut block: &[u8]) -> bool {
    while let Some(first) = block.first() {
        let passed = match first {
            128.. => number(&mut block, 7).map(drop),
            0..32 => literal(&mut block),
            _ => None,
        };
        if passed.is_none() {
            return false;
        }
    }
    true
}

fn literal(block: &mut &[u8]) -> Option<()> {
    if number(block, 4)? == 0 {
        text(block)?;
    }
    text(block)
}

fn text(block: &mut &[u8]) -> Option<()> {
    let length = number(block, 7)?;
    *block = block.get(length..)?;
    Some(())
}

/// Reads a number that begins with this many bits of the next byte; None if it is larger than a header may need.
fn number(block: &mut &[u8], bits: u32) -> Option<usize> {
    let most = (1_u8 << bits) - 1;
    let (first, rest) = block.split_first()?;
    *block = rest;
    let mut value = usize::from(first & most);
    if value < usize::from(most) {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let (next, rest) = block.split_first()?;
        *block = rest;
        value += usize::from(next & 127) << shift;
        if next & 128 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexed_fields_and_literals_without_indexing_keep_the_table() {
        assert!(keeps_table(b"\x83\x86\xff\x00\x00\x01a\x01b\x04\x01/\x0f\x10\x01x\x10\x01n\x01v"));
        assert!(keeps_table(b""));
    }

    #[test]
    fn literals_with_indexing_and_new_sizes_change_it() {
        assert!(!keeps_table(b"\x83\x40\x01a\x01b"));
        assert!(!keeps_table(b"\x44\x01/"));
        assert!(!keeps_table(b"\x20\x83"));
        assert!(!keeps_table(b"\x3f\x00"));
    }

    #[test]
    fn what_is_cut_or_too_long_is_not_known_to_keep_it() {
        for cut in
            [&b"\x00"[..], b"\x00\x01", b"\x00\x01a", b"\x00\x01a\x02b", b"\xff", b"\x0f", b"\xff\xff\xff\xff\x01"]
        {
            assert!(!keeps_table(cut), "{cut:?}");
        }
    }
}

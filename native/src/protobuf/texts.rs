//! String elements: an element is the position of a string's bytes in a text.

use super::rope::Rope;
use crate::memory;

/// The size in bytes of an element: the string's offset and its length, with 32 bits each.
pub const SPAN: usize = 8;

/// Adds the position of a string; None if it does not fit into 32 bits, or there is no memory for it.
pub fn put_span(start: usize, len: usize, spans: &mut Vec<u8>) -> Option<()> {
    memory::put(spans, &u32::try_from(start).ok()?.to_le_bytes())?;
    memory::put(spans, &u32::try_from(len).ok()?.to_le_bytes())
}

/// Adds a string to a text, and its position to the elements.
pub fn put_text(string: &[u8], spans: &mut Vec<u8>, text: &mut Vec<u8>) -> Option<()> {
    put_span(text.len(), string.len(), spans)?;
    memory::put(text, string)
}

/// The offsets and the lengths of the strings.
pub fn spans(spans: &[u8]) -> impl ExactSizeIterator<Item = (usize, usize)> + Clone {
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
    spans.as_chunks::<SPAN>().0.iter().map(move |span| (number(&span[..4]), number(&span[4..])))
}

/// The strings themselves.
pub fn strings<'a>(places: &'a [u8], text: &'a [u8]) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone {
    spans(places).map(|(start, len)| text.get(start..start + len).unwrap_or_default())
}

/// Visits strings within a message, in the order of their positions.
///
/// Panics if there is no memory for a string that is in several pieces, as `memory::vec` does.
pub fn visit(places: &[u8], message: &Rope, visit: &mut dyn FnMut(&[u8])) {
    let mut at = message.cursor();
    let mut joined = Vec::new();
    for (start, len) in spans(places) {
        let within = at.skip(start - at.position()).and_then(|()| at.within(len));
        match within.as_ref().and_then(|within| within.contiguous()) {
            Some(string) => visit(string),
            None => {
                if joined.capacity() < len {
                    joined = memory::vec(len);
                }
                joined.resize(len, 0);
                message.copy_to(start, &mut joined);
                visit(&joined);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn strings_there_and_back() {
        let (mut places, mut text) = (Vec::new(), Vec::new());
        for string in ["", "one", "größer"] {
            put_text(string.as_bytes(), &mut places, &mut text).unwrap();
        }
        assert_eq!(places.len(), 3 * SPAN);
        assert_eq!(strings(&places, &text).collect::<Vec<_>>(), ["".as_bytes(), b"one", "größer".as_bytes()]);
        assert_eq!(put_span(1 << 32, 0, &mut places), None);
    }

    #[test]
    fn strings_of_a_message_in_pieces() {
        let mut message = Rope::default();
        ["ab", "cde", "f"].into_iter().for_each(|piece| message.push(Bytes::from_static(piece.as_bytes())));
        let mut places = Vec::new();
        for (start, len) in [(0, 1), (1, 3), (4, 0), (4, 2)] {
            put_span(start, len, &mut places).unwrap();
        }
        let mut got = Vec::new();
        visit(&places, &message, &mut |string| got.push(string.to_vec()));
        assert_eq!(got, [&b"a"[..], b"bcd", b"", b"ef"]);
    }
}

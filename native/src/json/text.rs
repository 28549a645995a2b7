//! Strings and line breaks in the format of RapidJSON's pretty writer.

use bytes::{BufMut, BytesMut};

const UPPER: &[u8; 16] = b"0123456789ABCDEF";
const LOWER: &[u8; 16] = b"0123456789abcdef";

/// The maximum size of an escaped byte.
pub const ESCAPED: usize = 6;

/// Writes a JSON string, and escapes only the characters that must be escaped.
pub fn write_string(text: &[u8], out: &mut BytesMut) {
    write_with(text, UPPER, out);
}

/// Writes a JSON string as the server's Python code does: the hexadecimal digits of escapes are in lower case.
pub fn write_compact_string(text: &str, out: &mut BytesMut) {
    write_with(text.as_bytes(), LOWER, out);
}

fn write_with(text: &[u8], hex: &[u8; 16], out: &mut BytesMut) {
    out.put_u8(b'"');
    let mut plain = 0;
    for (at, byte) in text.iter().enumerate() {
        if !matches!(byte, b'"' | b'\\' | 0..=0x1f) {
            continue;
        }
        out.put_slice(&text[plain..at]);
        plain = at + 1;
        write_escaped(*byte, hex, out);
    }
    out.put_slice(&text[plain..]);
    out.put_u8(b'"');
}

fn write_escaped(byte: u8, hex: &[u8; 16], out: &mut BytesMut) {
    let letter = match byte {
        b'\x08' => b'b',
        b'\x0c' => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        b'"' | b'\\' => byte,
        _ => {
            out.put_slice(b"\\u00");
            return out.put_slice(&[hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]]);
        }
    };
    out.put_slice(&[b'\\', letter]);
}

/// Starts a new line, indented for this many enclosing objects and arrays.
pub fn write_line(level: usize, out: &mut BytesMut) {
    out.put_u8(b'\n');
    out.put_bytes(b' ', 4 * level);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_necessary_characters_are_escaped() {
        let mut out = BytesMut::new();
        write_string("a\"\\\u{8}\u{c}\n\r\t\u{1}\u{1f}/\u{7f}ö".as_bytes(), &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001F/\u{7f}ö\"".as_bytes());
    }
}

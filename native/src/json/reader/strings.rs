//! Strings: as they are written, or with their escapes decoded.

use super::Reader;
use crate::memory;

impl<'a> Reader<'a> {
    /// Reads a string without escapes; its bytes need not be valid UTF-8.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let rest = &self.data[self.at..];
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
        self.at += end + 1;
        (rest[end] == b'"').then_some(&rest[..end])
    }

    /// Reads a string, and adds it to `out` with its escapes decoded; its bytes need not be valid UTF-8. None also if
    /// there is no memory for it.
    pub fn text(&mut self, out: &mut Vec<u8>) -> Option<()> {
        self.expect(b'"')?;
        loop {
            let rest = &self.data[self.at..];
            let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f))?;
            memory::put(out, &rest[..end])?;
            self.at += end + 1;
            match rest[end] {
                b'"' => return Some(()),
                b'\\' => self.escape(out)?,
                _ => return None,
            }
        }
    }

    /// Reads what follows a backslash, and adds the character that it stands for to `out`.
    fn escape(&mut self, out: &mut Vec<u8>) -> Option<()> {
        let letter = self.byte()?;
        self.at += 1;
        let character = match letter {
            b'"' | b'\\' | b'/' => letter,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                return memory::put(out, self.scalar()?.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ => return None,
        };
        memory::put(out, &[character])
    }

    /// Reads the character of one UTF-16 code unit, or of two; None for half a surrogate pair.
    fn scalar(&mut self) -> Option<char> {
        let first = self.code_unit()?;
        if !matches!(first, 0xd800..=0xdbff) {
            return char::from_u32(first);
        }
        self.data[self.at..].starts_with(b"\\u").then(|| self.at += 2)?;
        let second = self.code_unit().filter(|second| matches!(second, 0xdc00..=0xdfff))?;
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    /// Reads a UTF-16 code unit of four hexadecimal digits.
    fn code_unit(&mut self) -> Option<u32> {
        let digits = self.data.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

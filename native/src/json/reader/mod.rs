//! Parses JSON that every parser treats alike. Anything that parsers treat differently yields None, and is left to a
//! more careful parser.

mod digits;
mod numbers;
mod strings;

pub use numbers::Number;

/// A position in the bytes of a document.
#[derive(Clone)]
pub struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// The position at which the reader next lets other threads run.
    pause: usize,
}

/// The number of bytes between two pauses, which take a few tenths of a millisecond. Without pauses, Linux may let a
/// thread run for several milliseconds while others wait for its core, whatever its priority.
const STRETCH: usize = 64 << 10;

/// Sets a value that may be given only once.
pub fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

impl<'a> Reader<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, pause: STRETCH }
    }

    /// The number of unread bytes.
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

    /// Returns the next byte that is not white space, without reading it.
    pub fn peek(&mut self) -> Option<u8> {
        self.skip_space();
        self.byte()
    }

    /// Reads the next byte that is not white space.
    pub fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// Reads white space and this byte; None if another byte comes next.
    pub fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// Reads a list, and calls `element` to read each of its elements; returns their number. None if the list is empty or
    /// invalid, or if `element` returns None.
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

    /// Reads an object, and calls `member` with each key to read the value.
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

    /// Skips a list or an object without checking it, since it is checked when it is read later.
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

    /// Reads `true` or `false`.
    pub fn boolean(&mut self) -> Option<bool> {
        let value = self.peek()? == b't';
        let word: &[u8] = if value { b"true" } else { b"false" };
        self.data[self.at..].starts_with(word).then(|| self.at += word.len())?;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans() {
        let read = |text: &str| Reader::new(text.as_bytes()).boolean();
        assert_eq!(
            (read("true"), read(" false"), read("True"), read("tru"), read("")),
            (Some(true), Some(false), None, None, None)
        );
    }
}

//! JSON bodies that hold numbers and little else, which is what large ones do: read without an object for each number.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// Digits up to which a whole number fits 64 bits, and digits of an exponent that no reader makes infinite or zero.
const WHOLE: usize = 18;
const EXPONENT: usize = 2;
const LONG: usize = 64;

/// What a body asks for: under which key, of which signature, and numbers in lists of the same length and depth.
#[derive(Default)]
struct Numbers {
    key: String,
    signature_name: Option<String>,
    shape: Vec<usize>,
    values: Vec<f64>,
    depth: Option<usize>,
}

struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// How deep lists may be nested.
    max_rank: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.data.get(self.at).copied()
    }

    /// The next byte that is not white space.
    fn next(&mut self) -> Option<u8> {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// A string of plain characters, whose first quote has been read.
    fn string(&mut self) -> Option<&'a str> {
        let rest = &self.data[self.at..];
        let end = rest.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))?;
        self.at += end + 1;
        (rest[end] == b'"').then(|| std::str::from_utf8(&rest[..end]).ok())?
    }

    fn digits(&mut self) -> usize {
        let rest = &self.data[self.at..];
        let count = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
        self.at += count;
        count
    }

    /// A number, whose first byte has been read. None for those on which readers differ: they are for another to judge.
    fn number(&mut self) -> Option<f64> {
        self.at -= 1;
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        let first = self.peek();
        let whole = self.digits();
        if whole == 0 || whole > 1 && first == Some(b'0') {
            return None;
        }
        let mut fraction = false;
        if self.peek() == Some(b'.') {
            self.at += 1;
            fraction = true;
            (self.digits() > 0).then_some(())?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            fraction = true;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            (1..=EXPONENT).contains(&self.digits()).then_some(())?;
        }
        let text = &self.data[start..self.at];
        if text.len() > LONG || !fraction && (whole > WHOLE || text == b"-0") {
            return None;
        }
        std::str::from_utf8(text).ok()?.parse().ok()
    }

    /// A list at some level of others, whose bracket has been read.
    fn list(&mut self, level: usize, numbers: &mut Numbers) -> Option<()> {
        if level == self.max_rank {
            return None;
        }
        if numbers.shape.len() == level {
            numbers.shape.push(0);
        }
        let mut size = 0;
        loop {
            match self.next()? {
                b'[' => self.list(level + 1, numbers)?,
                b'-' | b'0'..=b'9' => {
                    (*numbers.depth.get_or_insert(level) == level).then_some(())?;
                    numbers.values.push(self.number()?);
                }
                _ => return None,
            }
            size += 1;
            match self.next()? {
                b',' => {}
                b']' => break,
                _ => return None,
            }
        }
        let known = &mut numbers.shape[level];
        if *known == 0 {
            *known = size;
        }
        (*known == size).then_some(())
    }

    fn member(&mut self, numbers: &mut Numbers) -> Option<()> {
        self.expect(b'"')?;
        let key = self.string()?;
        self.expect(b':')?;
        match key {
            "instances" | "inputs" if numbers.key.is_empty() => {
                numbers.key = key.into();
                self.expect(b'[')?;
                self.list(0, numbers)
            }
            "signature_name" if numbers.signature_name.is_none() => {
                self.expect(b'"')?;
                numbers.signature_name = Some(self.string()?.into());
                Some(())
            }
            _ => None,
        }
    }

    fn document(mut self) -> Option<Numbers> {
        let mut numbers = Numbers::default();
        self.expect(b'{')?;
        loop {
            self.member(&mut numbers)?;
            match self.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        (self.next().is_none() && !numbers.key.is_empty()).then_some(numbers)
    }
}

/// A body's key, signature, shape, and numbers as doubles; None for any other body, good or bad.
type Read<'py> = Option<(String, String, Vec<usize>, Bound<'py, PyBytes>)>;

#[pyfunction]
#[pyo3(signature = (data, max_rank, /))]
pub fn read_numbers<'py>(py: Python<'py>, data: &[u8], max_rank: usize) -> PyResult<Read<'py>> {
    let Some(numbers) = py.detach(|| Reader { data, at: 0, max_rank }.document()) else { return Ok(None) };
    let values = PyBytes::new_with(py, numbers.values.len() * size_of::<f64>(), |room| {
        for (place, value) in room.chunks_exact_mut(size_of::<f64>()).zip(&numbers.values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    })?;
    Ok(Some((numbers.key, numbers.signature_name.unwrap_or_default(), numbers.shape, values)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_RANK: usize = 64;

    fn read(text: &str) -> Option<(String, Vec<usize>, Vec<f64>)> {
        let numbers = Reader { data: text.as_bytes(), at: 0, max_rank: MAX_RANK }.document()?;
        Some((numbers.key, numbers.shape, numbers.values))
    }

    #[test]
    fn numbers_in_lists() {
        let text = " {\"signature_name\" : \"s\",\n\t\"instances\": [[1, -2.5e-1] , [0, 1E+2]] } ";
        assert_eq!(read(text), Some(("instances".into(), vec![2, 2], vec![1.0, -0.25, 0.0, 100.0])));
        assert_eq!(read("{\"inputs\":[7]}"), Some(("inputs".into(), vec![1], vec![7.0])));
    }

    #[test]
    fn all_else_is_for_another() {
        for value in [
            "[]",
            "[[]]",
            "[[1],[1,2]]",
            "[1,[2]]",
            "[[1],2]",
            "[01]",
            "[1.]",
            "[.5]",
            "[+1]",
            "[1e]",
            "[1e999]",
            "[-0]",
            "[1234567890123456789]",
            "[NaN]",
            "[true]",
            "[\"1\"]",
            "[1,]",
            "[1",
            "1",
            "{}",
            "[1 2]",
            "[-]",
            "[1]]",
        ] {
            assert!(read(&format!("{{\"instances\":{value}}}")).is_none(), "{value}");
        }
        for text in [
            "",
            "[1]",
            "{}",
            "{\"instances\":[1]",
            "{\"instances\":[1]}x",
            "{\"instances\":[1],\"inputs\":[1]}",
            "{\"instances\":[1],\"x\":1}",
            "{\"signature_name\":\"s\"}",
            "{\"signature_name\":1,\"instances\":[1]}",
            "{\"signature_name\":\"\",\"signature_name\":\"s\",\"instances\":[1]}",
            "{\"signature_name\":\"\\u0041\",\"instances\":[1]}",
            "\u{feff}{\"instances\":[1]}",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
        let deep = format!("{{\"instances\":{}1{}}}", "[".repeat(65), "]".repeat(65));
        assert!(read(&deep).is_none());
    }
}

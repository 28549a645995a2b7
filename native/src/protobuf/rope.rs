//! Received bytes in their original pieces, read as if they were contiguous.

use std::io::{self, Read};

use bytes::{Buf, Bytes};

use crate::memory::{self, NoMemory};

/// A sequence of bytes in several pieces, none of them copied.
#[derive(Clone, Debug, Default)]
pub struct Rope {
    // A single piece is by far the most common case, and needs no allocation.
    first: Bytes,
    rest: Vec<Bytes>,
    len: usize,
}

impl From<Bytes> for Rope {
    fn from(piece: Bytes) -> Self {
        Self { len: piece.len(), first: piece, rest: Vec::new() }
    }
}

impl Rope {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = piece;
        } else {
            self.rest.push(piece);
        }
    }

    /// Splits off the first `len` bytes, or all if there are fewer.
    pub fn take(&mut self, len: usize) -> Rope {
        let mut taken = Rope::default();
        let mut left = len.min(self.len);
        self.len -= left;
        let mut emptied = 0;
        for piece in std::iter::once(&mut self.first).chain(&mut self.rest) {
            let size = left.min(piece.len());
            taken.push(piece.split_to(size));
            left -= size;
            if !piece.is_empty() {
                break;
            }
            emptied += 1;
            if left == 0 {
                break;
            }
        }
        self.drop_empty(emptied);
        taken
    }

    fn drop_empty(&mut self, emptied: usize) {
        if emptied > 1 {
            self.rest.drain(..emptied - 1);
        }
        if self.first.is_empty() && !self.rest.is_empty() {
            self.first = self.rest.remove(0);
        }
    }

    /// Copies `target.len()` bytes, beginning at `start`; the caller has checked that they exist.
    pub fn copy_to(&self, start: usize, target: &mut [u8]) {
        let (mut skip, mut done) = (start, 0);
        for piece in self.pieces() {
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let part = &piece[skip..];
            let size = part.len().min(target.len() - done);
            target[done..done + size].copy_from_slice(&part[..size]);
            done += size;
            skip = 0;
            if done == target.len() {
                return;
            }
        }
        debug_assert_eq!(done, target.len(), "the rope is shorter than its reader assumed");
    }

    /// The whole sequence in one piece, copied only if there are several. Fails if there is no memory for the copy.
    pub fn into_bytes(self) -> Result<Bytes, NoMemory> {
        if self.rest.is_empty() {
            return Ok(self.first);
        }
        let mut whole = memory::buffer(self.len)?;
        for piece in self.pieces() {
            whole.extend_from_slice(piece);
        }
        Ok(whole.freeze())
    }

    /// Reads the sequence from its beginning, and frees each piece that has been read.
    pub fn into_reader(self) -> impl Read {
        Pieces { piece: self.first, rest: self.rest.into_iter() }
    }

    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { piece: &self.first, rest: &self.rest, position: 0, end: self.len }
    }
}

/// The pieces of a rope that have not been read.
struct Pieces {
    piece: Bytes,
    rest: std::vec::IntoIter<Bytes>,
}

impl Read for Pieces {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(next) = self.rest.next() else { return Ok(0) };
            self.piece = next;
        }
        let size = self.piece.len().min(target.len());
        self.piece.copy_to_slice(&mut target[..size]);
        Ok(size)
    }
}

/// A position in a rope up to which it has been read, and the end of the part that may be read.
#[derive(Clone)]
pub struct Cursor<'a> {
    piece: &'a [u8],
    rest: &'a [Bytes],
    position: usize,
    end: usize,
}

impl<'a> Cursor<'a> {
    /// The position in the rope.
    pub fn position(&self) -> usize {
        self.position
    }

    pub fn left(&self) -> usize {
        self.end - self.position
    }

    pub fn byte(&mut self) -> Option<u8> {
        if self.left() == 0 {
            return None;
        }
        while self.piece.is_empty() {
            self.next_piece()?;
        }
        let byte = self.piece.get_u8();
        self.position += 1;
        Some(byte)
    }

    pub fn skip(&mut self, len: usize) -> Option<()> {
        if len > self.left() {
            return None;
        }
        self.position += len;
        let mut left = len;
        while left > self.piece.len() {
            left -= self.piece.len();
            self.next_piece()?;
        }
        self.piece = &self.piece[left..];
        Some(())
    }

    /// Returns a cursor over the next `len` bytes, which this cursor skips.
    pub fn within(&mut self, len: usize) -> Option<Cursor<'a>> {
        let mut inner = self.clone();
        self.skip(len)?;
        inner.end = inner.position + len;
        Some(inner)
    }

    /// Everything that is left, if it is contiguous.
    pub fn contiguous(&self) -> Option<&'a [u8]> {
        self.piece.get(..self.left())
    }

    fn next_piece(&mut self) -> Option<()> {
        let (next, rest) = self.rest.split_first()?;
        (self.piece, self.rest) = (next, rest);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(pieces: &[&'static str]) -> Rope {
        let mut rope = Rope::default();
        for piece in pieces {
            rope.push(Bytes::from_static(piece.as_bytes()));
        }
        rope
    }

    #[test]
    fn take_crosses_pieces() {
        let mut rest = rope(&["ab", "cde", "f", "gh"]);
        assert_eq!(rest.take(0).into_bytes().unwrap(), "");
        assert_eq!(rest.take(3).into_bytes().unwrap(), "abc");
        assert_eq!(rest.take(3).into_bytes().unwrap(), "def");
        assert_eq!((rest.len(), rest.take(9).into_bytes()), (2, Ok(Bytes::from_static(b"gh"))));
        rest.push(Bytes::from_static(b"i"));
        assert_eq!(rest.into_bytes().unwrap(), "i");
    }

    #[test]
    fn copy_starts_anywhere() {
        let rope = rope(&["ab", "cde", "f"]);
        for start in 0..6 {
            for end in start..=6 {
                let mut got = vec![0; end - start];
                rope.copy_to(start, &mut got);
                assert_eq!(got, b"abcdef"[start..end]);
            }
        }
    }

    #[test]
    fn cursor_stays_within() {
        let rope = rope(&["ab", "cde", "f"]);
        let mut cursor = rope.cursor();
        assert_eq!(cursor.byte(), Some(b'a'));
        let mut inner = cursor.within(3).unwrap();
        assert_eq!(std::iter::from_fn(|| inner.byte()).collect::<Vec<_>>(), b"bcd");
        assert_eq!((cursor.position(), cursor.left()), (4, 2));
        assert!(cursor.clone().within(3).is_none());
        assert_eq!(cursor.skip(2), Some(()));
        assert_eq!(cursor.byte(), None);
    }
}

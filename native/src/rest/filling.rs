//! One input of a plain :predict while its rows are read: the column that is being filled, and the dimensions found so
//! far.

use smallvec::SmallVec;

use super::elements::{put_string, read_element};
use crate::json::Reader;
use crate::memory::put;
use crate::predict::{Column, Input};
use crate::protobuf::Dtype;

/// The maximum number of bytes that are allocated for a row before it has been read.
const RESERVED: usize = 4 << 10;

/// A column that is being read.
pub struct Filling<'a> {
    pub input: &'a Input,
    /// The known dimensions.
    inner: SmallVec<[Option<usize>; 4]>,
    pub rows: usize,
    bytes: Vec<u8>,
    text: Vec<u8>,
}

impl<'a> Filling<'a> {
    /// Makes an array without rows for an input. The first `skipped` dimensions of its declaration do not belong to a
    /// row; None if there are fewer.
    pub fn new(input: &'a Input, skipped: usize) -> Option<Self> {
        let inner = SmallVec::from_slice(input.inner.get(skipped..)?);
        let row = inner.iter().try_fold(input.dtype.size(), |size, inner| size.checked_mul((*inner)?));
        let bytes = Vec::with_capacity(row.unwrap_or_default().min(RESERVED));
        Some(Self { input, inner, rows: 0, bytes, text: Vec::new() })
    }

    /// Reads all rows, as one list.
    pub fn whole(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        match self.inner.len() {
            0 => self.rows = self.elements(reader)?,
            _ => drop(reader.list(|reader| self.row(reader))?),
        }
        Some(())
    }

    /// Reads one row.
    pub fn row(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        self.rows += 1;
        if self.inner.is_empty() {
            match self.input.dtype {
                Dtype::String => put_string(reader, &mut self.bytes, &mut self.text),
                dtype => read_element(dtype, reader, &mut self.bytes),
            }
        } else {
            self.lists(0, reader)
        }
    }

    /// Reads the nested lists of a row, from this level on; None if their lengths differ from the known
    /// dimensions, or an element is not plain.
    fn lists(&mut self, level: usize, reader: &mut Reader<'_>) -> Option<()> {
        let size = match level + 1 == self.inner.len() {
            true => self.elements(reader)?,
            false => reader.list(|reader| self.lists(level + 1, reader))?,
        };
        (*self.inner[level].get_or_insert(size) == size).then_some(())
    }

    /// Reads a list of elements; returns their number.
    fn elements(&mut self, reader: &mut Reader<'_>) -> Option<usize> {
        let bytes = &mut self.bytes;
        match self.input.dtype {
            Dtype::Float => reader.list(|reader| put(bytes, &reader.single()?.to_le_bytes())),
            Dtype::Double => reader.list(|reader| put(bytes, &reader.decimal()?.to_le_bytes())),
            Dtype::String => reader.list(|reader| put_string(reader, bytes, &mut self.text)),
            dtype => reader.list(|reader| read_element(dtype, reader, bytes)),
        }
    }

    /// The filled column. All dimensions are known once there is a row, since nested lists are never empty.
    ///
    /// If the first dimension was skipped in the declaration, the number of rows becomes a dimension of the column.
    pub fn filled(self, skipped: usize) -> Column {
        let rows = (skipped > 0).then_some(self.rows);
        Column {
            inner: rows.into_iter().chain(self.inner.into_iter().map(Option::unwrap_or_default)).collect(),
            bytes: self.bytes,
            text: self.text,
        }
    }
}

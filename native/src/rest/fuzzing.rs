//! The readers of plain bodies for fuzzing: they need no interpreter, and return owned results.

use super::examples::ExamplesBody;
use super::inputs::{Body, Declares};
use crate::predict::fuzzing::Declared;
use crate::predict::{Column, Input};

impl Declares for &Declared {
    fn inputs(&self) -> &[Input] {
        &self.inputs
    }

    fn max_rows(&self) -> usize {
        self.max_rows
    }

    fn batched(&self) -> bool {
        true
    }
}

/// A decoded body: whether it is row by row, its rows, and the dimensions beyond axis 0 and the bytes of each input.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderstoodBody {
    pub by_row: bool,
    pub rows: usize,
    pub columns: Vec<(Vec<usize>, Vec<u8>)>,
}

/// Decodes a plain body for a model whose signatures have these names; the default signature's is empty.
pub fn read_body(signatures: &[(&str, &Declared)], data: &[u8]) -> Option<UnderstoodBody> {
    let find = |name: &[u8]| signatures.iter().find(|known| known.0.as_bytes() == name).map(|known| known.1);
    let Body { by_row, rows, columns, .. } = Body::read(data, find)?;
    let columns = columns.into_iter().map(|Column { inner, bytes, .. }| (inner, bytes)).collect();
    Some(UnderstoodBody { by_row, rows, columns })
}

/// Decodes the plain body of a :classify or :regress: the name of its signature, which must be valid text like those of
/// all served models, and its Input.
pub fn read_examples_body(data: &[u8]) -> Option<(&str, Vec<u8>)> {
    let body = ExamplesBody::read(data)?;
    Some((std::str::from_utf8(body.signature).ok()?, body.input.into_bytes().ok()?.to_vec()))
}

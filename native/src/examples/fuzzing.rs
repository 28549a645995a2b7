//! The decoder of tf.Examples for fuzzing: needs no interpreter, and returns its result as owned bytes.

use super::columns::columns;
use super::request::{Inference, MultiRequest, Request};
use crate::predict::fuzzing::Declared;
use crate::predict::{Column, Input as Declaration, Text};
use crate::protobuf::{Dtype, Rope};

/// The tensors of a signature in the order of their declarations, each with its shape and its bytes. Each string is
/// preceded by its length.
pub type Tensors = Vec<(Vec<usize>, Vec<u8>)>;

/// Decodes a plain Classify or Regress with these features, for a model and a signature whose names are valid text,
/// like those of all served models.
pub fn read_examples(declared: &Declared, message: &Rope) -> Option<Tensors> {
    let request = Request::read(message.cursor())?;
    (is_text(&request.spec.name) && is_text(&request.spec.signature)).then_some(())?;
    tensors(declared, &request.input)
}

/// Decodes a plain MultiInference with these features; also returns the number of inferences.
pub fn read_multi(declared: &Declared, message: &Rope) -> Option<(usize, Tensors)> {
    let request = MultiRequest::read(message.cursor())?;
    let is_named = |inference: &Inference<'_>| {
        [&inference.spec.name, &inference.spec.signature, &inference.method].into_iter().all(is_text)
    };
    request.inferences.iter().all(is_named).then_some(())?;
    Some((request.inferences.len(), tensors(declared, &request.input)?))
}

fn is_text(text: &Text<'_>) -> bool {
    text.bytes().is_some_and(|bytes| std::str::from_utf8(bytes).is_ok())
}

fn tensors(declared: &Declared, input: &super::request::Input<'_>) -> Option<Tensors> {
    if input.rows > declared.max_rows {
        return None;
    }
    let columns = columns(input, &declared.inputs, 0)?.into_iter().zip(&declared.inputs);
    let shaped = |(column, declared): (Column, &Declaration)| {
        let shape = std::iter::once(input.rows).chain(column.inner.iter().copied()).collect();
        (shape, if declared.dtype == Dtype::String { with_lengths(&column) } else { column.bytes })
    };
    Some(columns.map(shaped).collect())
}

fn with_lengths(column: &Column) -> Vec<u8> {
    let mut bytes = Vec::new();
    column.strings(&mut |string| {
        bytes.extend_from_slice(&(string.len() as u32).to_le_bytes());
        bytes.extend_from_slice(string);
    });
    bytes
}

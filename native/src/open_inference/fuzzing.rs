//! The plain ModelInfer's decoder by itself: what it understood as owned bytes.

use super::request::{Request, tensors};
use crate::predict::fuzzing::Declared;
use crate::protobuf::Rope;

/// What was read of a request; the tensors in the order of their declarations, each with its shape and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderstoodInfer {
    pub model: Vec<u8>,
    pub version: Option<i64>,
    pub id: Vec<u8>,
    pub tensors: Vec<(Vec<usize>, Vec<u8>)>,
}

/// Understands a plain request for these outputs of a model whose name is text, as all that are served are.
pub fn read_infer(declared: &Declared, outputs: &[Vec<u8>], message: &Rope) -> Option<UnderstoodInfer> {
    let request = Request::read(message.cursor())?;
    std::str::from_utf8(request.model).ok()?;
    if !request.wants(outputs) {
        return None;
    }
    let (tensors, rows) = tensors(&request, &declared.inputs, declared.max_rows)?;
    Some(UnderstoodInfer {
        model: request.model.to_vec(),
        version: request.version,
        id: request.id.to_vec(),
        tensors: declared.contents(message, &tensors, rows),
    })
}

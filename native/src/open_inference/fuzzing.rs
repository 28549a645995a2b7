//! The decoders of the plain ModelInfer and of the plain infer over HTTP, for fuzzing: they return their results as
//! owned bytes.

use bytes::Bytes;

use super::Regions;
use super::json::{Body, Output};
use super::request::{Request, Tensors};
use crate::predict::fuzzing::Declared;
use crate::protobuf::{Dtype, Rope};

/// A decoded request; the tensors in the order of their declarations, each with its shape and its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderstoodInfer {
    pub model: Vec<u8>,
    pub version: Option<i64>,
    pub id: Vec<u8>,
    pub tensors: Vec<(Vec<usize>, Vec<u8>)>,
}

/// Decodes a plain request for these outputs of a model whose name is valid text, like those of all served models.
pub fn read_infer(declared: &Declared, outputs: &[Vec<u8>], message: &Rope) -> Option<UnderstoodInfer> {
    let request = Request::read(message.cursor())?;
    std::str::from_utf8(request.model).ok()?;
    if !request.wants(outputs) {
        return None;
    }
    let (Tensors::Raw(tensors), rows) =
        Tensors::of(&request, &declared.inputs, declared.max_rows, &Regions::default())?
    else {
        return None; // there are no regions, so this cannot happen
    };
    Some(UnderstoodInfer {
        model: request.model.to_vec(),
        version: request.version,
        id: request.id.to_vec(),
        tensors: declared.contents(message, &tensors, rows),
    })
}

/// A decoded body: the tensors as in `UnderstoodInfer`, and which outputs are wanted as binary data.
#[derive(Debug, PartialEq, Eq)]
pub struct UnderstoodInferBody {
    pub id: String,
    pub tensors: Vec<(Vec<usize>, Vec<u8>)>,
    pub binary: Vec<bool>,
}

/// Decodes a body whose first `json` bytes are JSON, for a model with these outputs.
pub fn read_infer_body(
    declared: &Declared,
    outputs: &[(&str, Dtype)],
    data: &Bytes,
    json: usize,
) -> Option<UnderstoodInferBody> {
    let outputs: Vec<_> =
        outputs.iter().map(|&(name, dtype)| Output { name: name.as_bytes().to_vec(), dtype }).collect();
    let Body { id, rows, tensors, binary } = Body::read(data, json, &declared.inputs, &outputs, declared.max_rows)?;
    let shape = |inner: Vec<usize>| std::iter::once(rows).chain(inner).collect();
    let tensors = tensors.into_iter().map(|tensor| (shape(tensor.inner), tensor.bytes.to_vec())).collect();
    Some(UnderstoodInferBody { id, tensors, binary })
}

//! The plain Predict's decoder for fuzzing: needs no interpreter, and returns its result as owned bytes.

use super::{Input, Request, Tensor, Version, tensors};
use crate::protobuf::{Dtype, Rope};

/// A signature's inputs, as in a route; also for the Open Inference Protocol's decoder.
pub struct Declared {
    pub inputs: Vec<Input>,
    pub max_rows: usize,
}

/// A decoded request: the tensors in the order of their declarations, each with its shape and its bytes. Each string is
/// preceded by its length.
#[derive(Debug, PartialEq, Eq)]
pub struct Understood {
    pub name: Vec<u8>,
    pub version: Option<i64>,
    pub signature: Vec<u8>,
    pub tensors: Vec<(Vec<usize>, Vec<u8>)>,
}

impl Declared {
    /// `inputs` has the alias, the dtype and the dimensions beyond axis 0 of each; a dimension that varies is None.
    pub fn new(inputs: &[(&str, Dtype, &[Option<usize>])], max_rows: usize) -> Self {
        let inputs = inputs.iter().map(|&(alias, dtype, inner)| Input {
            alias: alias.as_bytes().to_vec(),
            dtype,
            inner: inner.to_vec(),
        });
        Self { inputs: inputs.collect(), max_rows }
    }

    /// Decodes a plain request for a model and a signature whose names are valid text, like those of all served models.
    pub fn read(&self, message: &Rope) -> Option<Understood> {
        let request = Request::read(message.cursor())?;
        // A request that names outputs cannot be checked without a route.
        request.wanted.is_empty().then_some(())?;
        let (name, signature) = (request.spec.name.bytes()?, request.spec.signature.bytes()?);
        std::str::from_utf8(name).and(std::str::from_utf8(signature)).ok()?;
        let (tensors, rows) = tensors(&request, &self.inputs, Some(self.max_rows))?;
        Some(Understood {
            name: name.to_vec(),
            version: number(request.spec.version)?,
            signature: signature.to_vec(),
            tensors: self.contents(message, &tensors, rows),
        })
    }

    /// The shape and the bytes of each tensor of a message.
    pub(crate) fn contents(&self, message: &Rope, tensors: &[Tensor], rows: usize) -> Vec<(Vec<usize>, Vec<u8>)> {
        self.inputs.iter().zip(tensors).map(|(input, tensor)| read(message, input, tensor, rows)).collect()
    }
}

fn read(message: &Rope, input: &Input, tensor: &Tensor, rows: usize) -> (Vec<usize>, Vec<u8>) {
    let shape: Vec<_> = std::iter::once(rows).chain(tensor.inner.iter().copied()).collect();
    if input.dtype == Dtype::String {
        let mut bytes = Vec::new();
        tensor.strings(message, &mut |string| {
            bytes.extend_from_slice(&(string.len() as u32).to_le_bytes());
            bytes.extend_from_slice(string);
        });
        return (shape, bytes);
    }
    let mut bytes = vec![0; shape.iter().product::<usize>() * input.dtype.size()];
    tensor.copy_to(message, input.dtype, &mut bytes);
    (shape, bytes)
}

/// The number of the version that a request names; Some(None) if it asks for the latest one, and None if it has a label,
/// since only the routes know the version of a label.
fn number(version: Version<'_>) -> Option<Option<i64>> {
    match version {
        Version::Latest => Some(None),
        Version::Number(number) => Some(Some(number)),
        Version::Label(_) => None,
    }
}

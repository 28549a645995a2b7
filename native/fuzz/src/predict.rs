//! The plain Predict: an accepted request equals what prost reads, however it is cut, and memory is limited to a
//! multiple of its bytes.

use headrace_native::fuzzing::{Declared, Dtype, Understood};
use prost::Message;

use crate::allocation::at_most;
use crate::messages::PredictRequest;
use crate::pieces::{Choices, cut, rope};

type Input = (&'static str, Dtype, &'static [Option<usize>]);

const SIGNATURES: [&[Input]; 7] = [
    &[("x", Dtype::Float, &[Some(4)])],
    &[("x", Dtype::Float, &[None])],
    &[("ids", Dtype::Int64, &[]), ("mask", Dtype::Bool, &[])],
    &[("x", Dtype::Int8, &[None, Some(2)]), ("", Dtype::Half, &[])],
    &[("x", Dtype::Uint32, &[Some(2)])],
    &[("x", Dtype::Double, &[]), ("y", Dtype::Uint64, &[]), ("z", Dtype::Int32, &[None])],
    &[("s", Dtype::String, &[None])],
];
const MAX_ROWS: usize = 1_000;

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the request was plain.
pub fn understood(data: &[u8]) -> bool {
    let (mut choices, message) = Choices::of(data, 2);
    let signature = choices.one_of(&SIGNATURES);
    let declared = Declared::new(signature, MAX_ROWS);
    let whole = read(&declared, message, 0);
    if let Some(understood) = &whole {
        compare(understood, message, signature);
    }
    for seed in [1, choices.byte()] {
        // If a name is cut in two, the request is no longer plain; cutting has no other effect.
        if let Some(understood) = read(&declared, message, seed) {
            assert_eq!(Some(&understood), whole.as_ref(), "cut by {seed}");
        }
    }
    whole.is_some()
}

/// Reads a request. A few bytes must not expand to many in memory: at most eight times the received bytes, plus a
/// little.
fn read(declared: &Declared, message: &[u8], seed: usize) -> Option<Understood> {
    let message = rope(&cut(message, seed));
    at_most(8 * message.len() + 16 * 1024, || declared.read(&message))
}

fn compare(understood: &Understood, message: &[u8], signature: &[Input]) {
    let request = PredictRequest::decode(message).expect("a plain request is well-formed");
    let spec = request.model_spec.expect("a plain request names a model");
    assert_eq!(spec.name.as_bytes(), understood.name);
    assert_eq!(spec.signature_name.as_bytes(), understood.signature);
    assert_eq!(spec.version.map(|version| version.value), understood.version);
    assert_eq!(spec.version_label, "");
    assert!(request.output_filter.is_empty());
    assert_eq!(request.inputs.len(), signature.len());
    for ((alias, dtype, inner), (shape, bytes)) in signature.iter().zip(&understood.tensors) {
        let proto = &request.inputs[*alias];
        assert_eq!(proto.dtype as u64, dtype.number());
        let dims = &proto.tensor_shape.as_ref().expect("it has a shape").dim;
        assert_eq!(dims.iter().map(|dim| dim.size as usize).collect::<Vec<_>>(), *shape);
        assert!(shape[0] <= MAX_ROWS && shape.len() == inner.len() + 1);
        assert!(shape[1..].iter().zip(*inner).all(|(got, want)| want.is_none_or(|want| want == *got)));
        assert_eq!(proto.array_bytes(dtype.size()), *bytes, "{alias}");
    }
}

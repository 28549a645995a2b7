//! The plain ModelInfer: an accepted request equals what prost reads, however it is cut, and memory is limited to a
//! multiple of its bytes.

use headrace_native::fuzzing::{Declared, Dtype, UnderstoodInfer, read_infer};
use prost::Message;

use crate::allocation::at_most;
use crate::messages::ModelInferRequest;
use crate::pieces::{Choices, cut, rope};

/// The name, the dtype, the protocol's name for it, and the dimensions beyond axis 0.
type Input = (&'static str, Dtype, &'static str, &'static [Option<usize>]);

const MODELS: [(&[Input], &[&str]); 4] = [
    (&[("x", Dtype::Float, "FP32", &[Some(4)])], &["y"]),
    (&[("x", Dtype::Half, "FP16", &[None])], &["y", "z"]),
    (&[("ids", Dtype::Int64, "INT64", &[]), ("mask", Dtype::Bool, "BOOL", &[])], &["y"]),
    (&[("x", Dtype::Int8, "INT8", &[None, Some(2)]), ("i", Dtype::Uint16, "UINT16", &[])], &["a", "y"]),
];
const MAX_ROWS: usize = 1_000;

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the request was plain.
pub fn understood(data: &[u8]) -> bool {
    let (mut choices, message) = Choices::of(data, 2);
    let (inputs, outputs) = choices.one_of(&MODELS);
    let declared: Vec<_> = inputs.iter().map(|&(name, dtype, _, inner)| (name, dtype, inner)).collect();
    let declared = Declared::new(&declared, MAX_ROWS);
    let names: Vec<_> = outputs.iter().map(|name| name.as_bytes().to_vec()).collect();
    let whole = read(&declared, &names, message, 0);
    if let Some(understood) = &whole {
        compare(understood, message, inputs, outputs);
    }
    for seed in [1, choices.byte()] {
        // If a name is cut in two, the request is no longer plain; cutting has no other effect.
        if let Some(understood) = read(&declared, &names, message, seed) {
            assert_eq!(Some(&understood), whole.as_ref(), "cut by {seed}");
        }
    }
    whole.is_some()
}

/// Reads a request. A few bytes must not expand to many in memory: at most eight times the received bytes, plus a
/// little.
fn read(declared: &Declared, outputs: &[Vec<u8>], message: &[u8], seed: usize) -> Option<UnderstoodInfer> {
    let message = rope(&cut(message, seed));
    at_most(8 * message.len() + 16 * 1024, || read_infer(declared, outputs, &message))
}

fn compare(understood: &UnderstoodInfer, message: &[u8], inputs: &[Input], outputs: &[&str]) {
    let request = ModelInferRequest::decode(message).expect("a plain request is well-formed");
    assert_eq!(request.model_name.as_bytes(), understood.model);
    assert_eq!(request.id.as_bytes(), understood.id);
    match understood.version {
        None => assert_eq!(request.model_version, ""),
        Some(version) => assert_eq!(request.model_version.parse(), Ok(version)),
    }
    assert!(request.parameters.is_empty());
    assert!(request.outputs.iter().all(|output| output.parameters.is_empty()));
    let mut asked: Vec<_> = request.outputs.iter().map(|output| output.name.as_str()).collect();
    asked.sort_unstable();
    assert!(asked.is_empty() || asked == outputs);
    assert_eq!((request.inputs.len(), request.raw_input_contents.len()), (inputs.len(), inputs.len()));
    for ((name, dtype, datatype, inner), (shape, bytes)) in inputs.iter().zip(&understood.tensors) {
        let at = request.inputs.iter().position(|input| input.name == *name).expect("each declared input is present");
        let input = &request.inputs[at];
        assert!(input.parameters.is_empty() && input.contents.is_none());
        assert_eq!(input.datatype, *datatype);
        assert_eq!(input.shape.iter().map(|size| *size as usize).collect::<Vec<_>>(), *shape);
        assert!(shape[0] <= MAX_ROWS && shape.len() == inner.len() + 1);
        assert!(shape[1..].iter().zip(*inner).all(|(got, want)| want.is_none_or(|want| want == *got)));
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size());
        assert_eq!(request.raw_input_contents[at], *bytes, "{name}");
    }
}

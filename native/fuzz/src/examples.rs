//! Classify, Regress and MultiInference: an accepted request equals what prost reads, however it is cut, and memory is
//! limited to a multiple of its bytes.

use std::collections::HashMap;

use headrace_native::fuzzing::{Declared, Dtype, read_examples, read_multi};
use prost::Message;

use crate::allocation::at_most;
use crate::messages::ModelSpec;
use crate::pieces::{Choices, cut, rope};

type Input = (&'static str, Dtype, &'static [Option<usize>]);
type Tensors = Vec<(Vec<usize>, Vec<u8>)>;

const SIGNATURES: [&[Input]; 4] = [
    &[("x", Dtype::Float, &[Some(2)])],
    &[("age", Dtype::Int64, &[]), ("w", Dtype::Double, &[None])],
    &[("b", Dtype::Bool, &[Some(1)]), ("n", Dtype::Int8, &[None, Some(2)]), ("u", Dtype::Uint32, &[])],
    &[("s", Dtype::String, &[None])],
];
const MAX_ROWS: usize = 100;
/// The maximum memory that a shared feature may take, however small the request is.
const SHARED: usize = 2 << 20;

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, optional, tag = "1")]
    model_spec: Option<ModelSpec>,
    #[prost(message, optional, tag = "2")]
    input: Option<Examples>,
}

#[derive(Clone, PartialEq, Message)]
struct MultiRequest {
    #[prost(message, repeated, tag = "1")]
    tasks: Vec<Task>,
    #[prost(message, optional, tag = "2")]
    input: Option<Examples>,
}

#[derive(Clone, PartialEq, Message)]
struct Task {
    #[prost(message, optional, tag = "1")]
    model_spec: Option<ModelSpec>,
    #[prost(string, tag = "2")]
    method_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Examples {
    #[prost(message, optional, tag = "1")]
    pub(crate) example_list: Option<List>,
    #[prost(message, optional, tag = "2")]
    pub(crate) example_list_with_context: Option<List>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct List {
    #[prost(message, repeated, tag = "1")]
    pub(crate) examples: Vec<Example>,
    #[prost(message, optional, tag = "2")]
    pub(crate) context: Option<Example>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Example {
    #[prost(message, optional, tag = "1")]
    pub(crate) features: Option<Features>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Features {
    #[prost(map = "string, message", tag = "1")]
    pub(crate) feature: HashMap<String, Feature>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Feature {
    #[prost(message, optional, tag = "1")]
    pub(crate) bytes_list: Option<BytesList>,
    #[prost(message, optional, tag = "2")]
    pub(crate) float_list: Option<FloatList>,
    #[prost(message, optional, tag = "3")]
    pub(crate) int64_list: Option<Int64List>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct BytesList {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(crate) value: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct FloatList {
    #[prost(float, repeated, tag = "1")]
    pub(crate) value: Vec<f32>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Int64List {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) value: Vec<i64>,
}

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the request was plain.
pub fn understood(data: &[u8]) -> bool {
    let (mut choices, message) = Choices::of(data, 3);
    let signature = choices.one_of(&SIGNATURES);
    let multi = choices.byte() % 2 == 1;
    let declared = Declared::new(signature, MAX_ROWS);
    let whole = read(&declared, multi, message, 0);
    if let Some(tensors) = &whole {
        compare(tensors, &input_of(message, multi), signature);
    }
    for seed in [1, choices.byte()] {
        // If values are cut in two, the request is no longer plain; cutting has no other effect.
        if let Some(tensors) = read(&declared, multi, message, seed) {
            assert_eq!(Some(&tensors), whole.as_ref(), "cut by {seed}");
        }
    }
    whole.is_some()
}

fn read(declared: &Declared, multi: bool, message: &[u8], seed: usize) -> Option<Tensors> {
    let message = rope(&cut(message, seed));
    at_most(64 * message.len() + SHARED + 16 * 1024, || match multi {
        true => read_multi(declared, &message).map(|(_, tensors)| tensors),
        false => read_examples(declared, &message),
    })
}

fn input_of(message: &[u8], multi: bool) -> Examples {
    let input = if multi {
        let request = MultiRequest::decode(message).expect("a plain request is well-formed");
        assert!(request.tasks.iter().all(|task| task.model_spec.is_some()));
        request.input
    } else {
        Request::decode(message).expect("a plain request is well-formed").input
    };
    input.expect("a plain request has Examples")
}

fn compare(tensors: &Tensors, input: &Examples, signature: &[Input]) {
    let list = match (&input.example_list, &input.example_list_with_context) {
        (Some(list), None) | (None, Some(list)) => list,
        both => panic!("a plain request has one list: {both:?}"),
    };
    let of = |example: &Example, alias: &str| example.features.as_ref()?.feature.get(alias).cloned();
    for ((alias, dtype, inner), (shape, bytes)) in signature.iter().zip(tensors) {
        let shared = list.context.as_ref().and_then(|context| of(context, alias));
        let rows = list.examples.iter().map(|example| of(example, alias).or_else(|| shared.clone()));
        let expected: Vec<u8> = rows.flat_map(|row| elements(&row.expect("it has one"), *dtype)).collect();
        assert_eq!(&expected, bytes, "{alias}");
        assert_eq!(shape[0], list.examples.len());
        assert!(shape[0] <= MAX_ROWS && shape.len() == inner.len() + 1);
        assert!(shape[1..].iter().zip(*inner).all(|(got, want)| want.is_none_or(|want| want == *got)));
        assert!(*dtype == Dtype::String || shape.iter().product::<usize>() * dtype.size() == bytes.len());
    }
}

fn elements(feature: &Feature, dtype: Dtype) -> Vec<u8> {
    let floats = || feature.float_list.as_ref().expect("its kind").value.iter();
    let integers = || feature.int64_list.as_ref().expect("its kind").value.iter();
    let texts = || feature.bytes_list.as_ref().expect("its kind").value.iter();
    match dtype {
        Dtype::String => texts().flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat()).collect(),
        Dtype::Float => floats().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::Double => floats().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
        Dtype::Bool => integers().map(|value| u8::from(*value != 0)).collect(),
        _ => integers().flat_map(|value| value.to_le_bytes()[..dtype.size()].to_vec()).collect(),
    }
}

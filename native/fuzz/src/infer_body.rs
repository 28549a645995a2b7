//! The plain body of an infer over HTTP: an accepted body equals what serde_json reads, and memory is limited to a
//! multiple of its bytes.

use bytes::Bytes;
use headrace_native::fuzzing::{Declared, Dtype, UnderstoodInferBody, read_infer_body};
use serde_json::{Map, Value};

use crate::allocation::at_most;
use crate::pieces::Choices;

type Input = (&'static str, Dtype, &'static [Option<usize>]);
type Output = (&'static str, Dtype);

const MODELS: [(&[Input], &[Output]); 4] = [
    (&[("x", Dtype::Float, &[Some(2)])], &[("y", Dtype::Float)]),
    (&[("x", Dtype::Double, &[])], &[("y", Dtype::Half), ("z", Dtype::Double)]),
    (&[("ids", Dtype::Int64, &[None]), ("mask", Dtype::Bool, &[None])], &[("y", Dtype::Bool)]),
    (
        &[("a", Dtype::Uint16, &[]), ("b", Dtype::Int8, &[Some(2), None]), ("c", Dtype::Half, &[])],
        &[("y", Dtype::Uint16), ("z", Dtype::Int8)],
    ),
];
const MAX_ROWS: usize = 1_000;

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the body was plain.
pub fn understood(data: &[u8]) -> bool {
    let (mut choices, body) = Choices::of(data, 2);
    let (inputs, outputs) = choices.one_of(&MODELS);
    let json = body.len() - choices.byte().min(body.len());
    let (declared, body) = (Declared::new(inputs, MAX_ROWS), Bytes::copy_from_slice(body));
    // Two bytes may expand to eight. A growing vector has up to twice the needed capacity, and is copied from a vector
    // of half its size.
    let read = at_most(24 * body.len() + 32 * 1024, || read_infer_body(&declared, outputs, &body, json));
    if let Some(read) = &read {
        compare(read, &body, json, inputs, outputs);
    }
    read.is_some()
}

fn compare(read: &UnderstoodInferBody, body: &[u8], json: usize, inputs: &[Input], outputs: &[Output]) {
    let document: Map<String, Value> = serde_json::from_slice(&body[..json]).expect("a plain body is JSON");
    assert_eq!(read.id, document.get("id").map_or("", |id| id.as_str().expect("an id is text")));
    assert_eq!(read.binary, binary(&document, outputs));
    let sent = document["inputs"].as_array().expect("inputs are a list");
    assert_eq!((sent.len(), read.tensors.len()), (inputs.len(), inputs.len()));
    let mut behind = &body[json..];
    for tensor in sent {
        let number = inputs.iter().position(|input| tensor["name"] == input.0).expect("it is declared");
        let ((_, dtype, inner), (shape, bytes)) = (inputs[number], &read.tensors[number]);
        assert_eq!(tensor["shape"], Value::from(shape.clone()));
        let fits = |(got, want): (&usize, &Option<usize>)| want.is_none_or(|want| want == *got);
        assert!(shape[0] <= MAX_ROWS && shape.len() == inner.len() + 1 && shape[1..].iter().zip(inner).all(fits));
        assert!(!bytes.is_empty());
        assert_eq!(bytes.len(), shape.iter().product::<usize>() * dtype.size());
        let mut expected = Vec::new();
        match tensor.get("data") {
            Some(data) => put(data, dtype, &mut expected),
            None => {
                let (own, others) =
                    behind.split_at(tensor["parameters"]["binary_data_size"].as_u64().unwrap() as usize);
                expected.extend_from_slice(own);
                behind = others;
            }
        }
        assert_eq!(*bytes, expected);
    }
    assert!(behind.is_empty());
}

/// For each output, whether it is requested as binary data.
fn binary(document: &Map<String, Value>, outputs: &[Output]) -> Vec<bool> {
    let flag = |of: Option<&Value>, name: &str| {
        of.and_then(|of| of.get("parameters")).and_then(|all| all.get(name)) == Some(&Value::Bool(true))
    };
    let Some(named) = document.get("outputs") else {
        let all = document.get("parameters").and_then(|all| all.get("binary_data_output")) == Some(&Value::Bool(true));
        return vec![all; outputs.len()];
    };
    let named = named.as_array().expect("outputs are a list");
    assert_eq!(named.len(), outputs.len());
    outputs.iter().map(|(name, _)| flag(named.iter().find(|output| output["name"] == *name), "binary_data")).collect()
}

fn put(value: &Value, dtype: Dtype, bytes: &mut Vec<u8>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| put(item, dtype, bytes)),
        Value::Bool(flag) => bytes.push((*flag).into()),
        Value::Number(number) => {
            let text = number.to_string(); // its digits as they were sent
            match dtype {
                Dtype::Float => bytes.extend((text.parse::<f64>().unwrap() as f32).to_le_bytes()),
                Dtype::Double => bytes.extend(text.parse::<f64>().unwrap().to_le_bytes()),
                _ => bytes.extend_from_slice(&text.parse::<i128>().unwrap().to_le_bytes()[..dtype.size()]),
            }
        }
        _ => panic!("{value} is not a tensor's value"),
    }
}

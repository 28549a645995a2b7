//! The plain body of a :classify or :regress over REST: its Input contains what serde_json reads, and memory is limited
//! to a multiple of its bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headrace_native::fuzzing::read_examples_body;
use prost::Message;
use serde_json::{Map, Value};

use crate::allocation::at_most;
use crate::examples::{BytesList, Example, Examples, Feature, FloatList, Int64List};

/// A list in JSON, as one of tf.Example's lists: all its values have the same kind.
#[derive(Debug, PartialEq)]
enum Kind {
    Strings(Vec<Vec<u8>>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the body was plain.
pub fn understood(data: &[u8]) -> bool {
    let read = at_most(32 * data.len() + 16 * 1024, || read_examples_body(data));
    let Some((signature, input)) = read else { return false };
    let document: Map<String, Value> = serde_json::from_slice(data).expect("a plain body is JSON");
    let known = ["signature_name", "examples", "context"];
    assert!(document.keys().all(|key| known.contains(&key.as_str())));
    let named = document.get("signature_name").map_or("", |name| name.as_str().expect("a name is text"));
    assert_eq!(signature, named);
    let input = Examples::decode(input.as_slice()).expect("an Input");
    compare(&input, &document["examples"], document.get("context"));
    true
}

fn compare(input: &Examples, examples: &Value, context: Option<&Value>) {
    assert_eq!(input.example_list.is_some(), context.is_none());
    let list = input.example_list.as_ref().or(input.example_list_with_context.as_ref()).expect("an Input has a list");
    let examples = examples.as_array().expect("Examples are a list");
    assert!(list.examples.len() == examples.len() && !examples.is_empty());
    let known = examples.iter().chain(context);
    for (example, value) in list.examples.iter().chain(&list.context).zip(known) {
        compare_example(example, value.as_object().expect("an Example is an object"));
    }
    assert_eq!(list.context.is_some(), context.is_some());
}

fn compare_example(example: &Example, value: &Map<String, Value>) {
    let features = &example.features.as_ref().expect("features").feature;
    assert_eq!(features.len(), value.len());
    for (name, value) in value {
        assert_eq!(written(&features[name]), expected(value), "{name}");
    }
}

fn written(feature: &Feature) -> Kind {
    match (&feature.bytes_list, &feature.float_list, &feature.int64_list) {
        (Some(BytesList { value }), None, None) => Kind::Strings(value.clone()),
        (None, Some(FloatList { value }), None) => Kind::Floats(value.clone()),
        (None, None, Some(Int64List { value })) => Kind::Integers(value.clone()),
        _ => panic!("values of several kinds: {feature:?}"),
    }
}

fn expected(value: &Value) -> Kind {
    let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    match values.first().expect("a list has values") {
        Value::String(_) | Value::Object(_) => Kind::Strings(values.iter().map(string).collect()),
        first if is_decimal(first) => Kind::Floats(values.iter().map(float).collect()),
        _ => Kind::Integers(values.iter().map(integer).collect()),
    }
}

fn string(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        _ => STANDARD.decode(value["b64"].as_str().expect("base64 is text")).expect("base64"),
    }
}

/// Whether a number has a decimal point or an exponent.
fn is_decimal(value: &Value) -> bool {
    value.is_number() && value.to_string().contains(['.', 'e', 'E'])
}

fn float(value: &Value) -> f32 {
    assert!(is_decimal(value));
    value.to_string().parse::<f64>().expect("a number") as f32
}

fn integer(value: &Value) -> i64 {
    assert!(!is_decimal(value));
    value.as_bool().map_or_else(|| value.to_string().parse().expect("a whole number"), i64::from)
}

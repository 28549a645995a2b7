//! The plain body of a :predict over REST: an accepted body equals what serde_json reads, and memory is limited to a
//! multiple of its bytes.

use headrace_native::fuzzing::{Declared, Dtype, UnderstoodBody, read_body};
use serde_json::{Map, Value};

use crate::allocation::at_most;
use crate::pieces::Choices;

type Input = (&'static str, Dtype, &'static [Option<usize>]);

/// The default signature of each model.
const SIGNATURES: [&[Input]; 5] = [
    &[("x", Dtype::Float, &[Some(2)])],
    &[("x", Dtype::Double, &[])],
    &[("ids", Dtype::Int64, &[]), ("mask", Dtype::Bool, &[])],
    &[("x", Dtype::Int8, &[None, Some(2)])],
    &[("a", Dtype::Uint32, &[None]), ("b", Dtype::Float, &[]), ("c", Dtype::Uint64, &[])],
];
/// The other signature, which every model has.
const OTHER: &[Input] = &[("x", Dtype::Int32, &[])];
const MAX_ROWS: usize = 1_000;

pub fn check(data: &[u8]) {
    understood(data);
}

/// Like `check`; returns whether the body was plain.
pub fn understood(data: &[u8]) -> bool {
    let (mut choices, body) = Choices::of(data, 1);
    let first = choices.one_of(&SIGNATURES);
    let (default, other) = (Declared::new(first, MAX_ROWS), Declared::new(OTHER, MAX_ROWS));
    // Two bytes may expand to eight. A growing vector has up to twice the needed capacity, and is copied from a vector
    // of half its size.
    let read = at_most(16 * body.len() + 16 * 1024, || read_body(&[("", &default), ("other", &other)], body));
    if let Some(read) = &read {
        compare(read, body, first);
    }
    read.is_some()
}

fn compare(read: &UnderstoodBody, body: &[u8], default: &[Input]) {
    let document: Map<String, Value> = serde_json::from_slice(body).expect("a plain body is JSON");
    let name = document.get("signature_name").map_or("", |name| name.as_str().expect("a plain body names it as text"));
    let signature = if name.is_empty() { default } else { OTHER };
    let values = &document[if read.by_row { "instances" } else { "inputs" }];
    assert_eq!(document.len(), 1 + usize::from(document.contains_key("signature_name")));
    assert!(0 < read.rows && read.rows <= MAX_ROWS && read.columns.len() == signature.len());
    for ((alias, dtype, inner), (dims, bytes)) in signature.iter().zip(&read.columns) {
        let fits = |(got, want): (&usize, &Option<usize>)| want.is_none_or(|want| want == *got);
        assert!(dims.len() == inner.len() && dims.iter().zip(*inner).all(fits));
        let mut expected = Vec::new();
        for row in rows(values, alias, read.by_row) {
            put(row, dims, *dtype, &mut expected);
        }
        assert_eq!(*bytes, expected, "{alias}");
        assert_eq!(bytes.len(), read.rows * dims.iter().product::<usize>() * dtype.size());
    }
}

/// The value of one input in each row.
fn rows<'a>(values: &'a Value, alias: &str, by_row: bool) -> Vec<&'a Value> {
    let whole = if by_row { values } else { values.get(alias).unwrap_or(values) };
    whole.as_array().expect("rows are a list").iter().map(|row| row.get(alias).unwrap_or(row)).collect()
}

fn put(value: &Value, dims: &[usize], dtype: Dtype, bytes: &mut Vec<u8>) {
    let Some((size, inner)) = dims.split_first() else { return put_element(value, dtype, bytes) };
    let items = value.as_array().expect("a dimension is a list");
    assert_eq!(items.len(), *size);
    items.iter().for_each(|item| put(item, inner, dtype, bytes));
}

fn put_element(value: &Value, dtype: Dtype, bytes: &mut Vec<u8>) {
    if dtype == Dtype::Bool {
        return bytes.push(value.as_bool().expect("a bool").into());
    }
    // The number's digits, as they were sent.
    let text = value.as_number().expect("a number").to_string();
    let whole = || text.parse::<i128>().expect("a whole number");
    match dtype {
        Dtype::Float => bytes.extend((text.parse::<f64>().unwrap() as f32).to_le_bytes()),
        Dtype::Double => bytes.extend(text.parse::<f64>().unwrap().to_le_bytes()),
        _ => {
            let limits = match dtype {
                Dtype::Int64 => (i64::MIN.into(), i64::MAX.into()),
                Dtype::Uint32 => (0, u32::MAX.into()),
                Dtype::Uint64 => (0, u64::MAX.into()),
                _ => (i32::MIN.into(), i32::MAX.into()),
            };
            assert!((limits.0..=limits.1).contains(&whole()));
            bytes.extend_from_slice(&whole().to_le_bytes()[..dtype.size()]);
        }
    }
}

//! A tensor's values: read as prost reads them, however the bytes are cut, and written so that prost reads them back.

use bytes::BytesMut;
use headrace_native::fuzzing::{Dtype, Rope, Rows, Values, Writer};
use prost::Message;

use crate::allocation::at_most;
use crate::messages::TensorProto;
use crate::pieces::{Choices, cut, rope};

const DTYPES: [Dtype; 12] = [
    Dtype::Float,
    Dtype::Double,
    Dtype::Half,
    Dtype::Bool,
    Dtype::Int8,
    Dtype::Int16,
    Dtype::Int32,
    Dtype::Int64,
    Dtype::Uint8,
    Dtype::Uint16,
    Dtype::Uint32,
    Dtype::Uint64,
];

pub fn check(data: &[u8]) {
    let (mut choices, values) = Choices::of(data, 3);
    let (dtype, count, seed) = (choices.one_of(&DTYPES), choices.byte(), choices.byte());
    let count = if count == 255 { usize::MAX } else { count };
    for field in [4, dtype.field()] {
        let expected = plainest(values, dtype, count, field);
        for seed in [0, 1, seed] {
            let message = rope(&cut(values, seed));
            assert_eq!(read(&message, dtype, count, field), expected, "field {field}, cut by {seed}");
        }
    }
    written(values, dtype);
}

fn read(message: &Rope, dtype: Dtype, count: usize, field: u32) -> Option<Vec<u8>> {
    let found = at_most(0, || match field {
        4 => Values::content(dtype, count, message.cursor()),
        _ => Values::packed(dtype, count, message.cursor()),
    })?;
    let mut bytes = vec![0; count * dtype.size()];
    at_most(0, || found.copy_to(message, dtype, &mut bytes));
    Some(bytes)
}

/// prost's reading of the same field; None unless it has exactly `count` values that can be copied unchanged.
fn plainest(values: &[u8], dtype: Dtype, count: usize, field: u32) -> Option<Vec<u8>> {
    let mut proto = Vec::new();
    prost::encoding::encode_varint(8, &mut proto);
    prost::encoding::encode_varint(dtype.number(), &mut proto);
    prost::encoding::encode_varint(u64::from(field << 3 | 2), &mut proto);
    prost::encoding::encode_varint(values.len() as u64, &mut proto);
    proto.extend_from_slice(values);
    let bytes = TensorProto::decode(&*proto).ok()?.array_bytes(dtype.size());
    let fits = Some(bytes.len()) == count.checked_mul(dtype.size());
    let clean = dtype != Dtype::Bool || bytes.iter().all(|byte| *byte <= 1);
    (fits && clean).then_some(bytes)
}

/// Writes rows with these bytes into an answer, in each of the two encodings.
fn written(values: &[u8], dtype: Dtype) {
    let rows = values.len() / dtype.size();
    let bytes = &values[..rows * dtype.size()];
    let answer = Rows { dtype, rows: Some(rows), inner: &[1], bytes, text: &[] };
    for as_content in [false, true] {
        let length = answer.encoded_len(as_content);
        let mut out = BytesMut::with_capacity(length);
        at_most(0, || answer.encode(as_content, &mut Writer::new(&mut out)));
        assert_eq!(out.len(), length);
        let proto = TensorProto::decode(out).expect("an answer is well-formed");
        let sizes: Vec<_> =
            proto.tensor_shape.clone().expect("it has a shape").dim.iter().map(|dim| dim.size).collect();
        assert_eq!(sizes, [rows as i64, 1]);
        let clean = dtype != Dtype::Bool || bytes.iter().all(|byte| *byte <= 1);
        assert!(!clean || proto.array_bytes(dtype.size()) == bytes);
    }
}

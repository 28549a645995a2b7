//! A server's answers, as the client reads them: a decoded Predict output equals what prost reads, however the bytes
//! are cut, and an answer's body is either one message or refused.

use headrace_native::fuzzing::{PREFIX, only_message, percent_decoded, read_outputs};
use prost::Message;

use crate::allocation::at_most;
use crate::messages::PredictResponse;
use crate::pieces::{cut, rope};

const LIMIT: usize = 1 << 16;

pub fn check(data: &[u8]) {
    understood(data);
    body(data);
    at_most(8 * data.len() + 1024, || drop(percent_decoded(data)));
}

/// Checks what is decoded from a message; returns whether anything was decoded.
pub fn understood(data: &[u8]) -> bool {
    let read = |seed| {
        let message = rope(&cut(data, seed));
        // An output of only eleven bytes has a name, a shape and an array, and a varint of one byte expands to eight
        // bytes.
        at_most(32 * data.len() + 16 * 1024, || read_outputs(&message))
    };
    let whole = read(0);
    if let Some(outputs) = &whole {
        let response = PredictResponse::decode(data).expect("an understood answer is well-formed");
        // Of several outputs with the same name, the last one counts.
        for (alias, dtype, shape, bytes) in outputs.iter().rev().take(1) {
            let proto = &response.outputs[alias];
            assert_eq!(proto.dtype as u64, *dtype);
            let dims = proto.tensor_shape.iter().flat_map(|shape| &shape.dim);
            assert!(dims.map(|dim| dim.size as usize).eq(shape.iter().copied()));
            let count: usize = shape.iter().product();
            assert_eq!(proto.array_bytes(bytes.len() / count), *bytes, "{alias}");
        }
        assert!(response.outputs.keys().all(|name| outputs.iter().any(|(alias, ..)| alias == name)));
    }
    // If a name is cut in two, the answer is left to Python; cutting has no other effect.
    for outputs in [read(1), read(data.len())].into_iter().flatten() {
        assert_eq!(Some(outputs), whole);
    }
    whole.is_some()
}

fn body(data: &[u8]) {
    for seed in [0, 1] {
        match only_message(rope(&cut(data, seed)), LIMIT).map(|message| message.into_bytes().unwrap()) {
            Ok(message) => {
                assert_eq!(message, data[PREFIX..]);
                assert_eq!(data[..PREFIX], [&[0][..], &(message.len() as u32).to_be_bytes()].concat());
                assert!(message.len() <= LIMIT);
            }
            Err(status) => assert_ne!(status.code, 0),
        }
    }
}

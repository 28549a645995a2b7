//! The ModelSpec in an answer.

use bytes::Bytes;

use super::wire::VARINT;
use super::writer::Writer;

/// The model, version and signature that an answer names; version 0 is left out.
pub fn model_spec(name: &str, version: i64, signature: &str) -> Bytes {
    Writer::message(|out| {
        out.field(1, name.len());
        out.slice(name.as_bytes());
        let number = Writer::message(|number| {
            if version != 0 {
                number.tag(1, VARINT);
                number.varint(version as u64);
            }
        });
        out.field(2, number.len());
        out.slice(&number);
        out.field(3, signature.len());
        out.slice(signature.as_bytes());
    })
}

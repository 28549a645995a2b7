//! gRPC's frames: the messages are those that the simplest reader finds, however the bytes are cut, and memory never
//! exceeds the limit.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use headrace_native::fuzzing::{Encoding, Framed, PREFIX};

use crate::allocation::at_most;
use crate::pieces::{Choices, cut};

const ENCODINGS: [Encoding; 3] = [Encoding::Identity, Encoding::Deflate, Encoding::Gzip];
const LIMITS: [usize; 4] = [16, 1_000, 65_536, 1 << 20];

/// The memory that a decompression takes besides the message: a window, tables, and a vector that doubles its capacity.
const EXPANDING: usize = 256 * 1024;

/// The result of reading a stream to its end: its messages, and the code of the error that ended it early.
type Outcome = (Vec<Bytes>, Option<u8>);

pub fn check(data: &[u8]) {
    let (mut choices, stream) = Choices::of(data, 3);
    let (encoding, limit, seed) = (choices.one_of(&ENCODINGS), choices.one_of(&LIMITS), choices.byte());
    let expected = plainest(stream, encoding, limit);
    for seed in [0, 1, seed] {
        assert_eq!(read(&cut(stream, seed), encoding, limit), expected, "cut by {seed}");
    }
    let (messages, _) = expected;
    messages
        .iter()
        .filter(|message| message.len() <= limit)
        .for_each(|message| there_and_back(message, encoding, limit));
}

fn read(pieces: &[Bytes], encoding: Encoding, limit: usize) -> Outcome {
    let mut framed = Framed::new(encoding, limit, limit);
    let mut messages = Vec::new();
    for piece in pieces {
        framed.push(piece.clone());
        loop {
            // The rope's list of pieces, and a decompression whose buffer doubles up to its limit.
            let most = pieces.len() * 2 * size_of::<Bytes>() + 4 * limit + EXPANDING;
            match at_most(most, || framed.message()) {
                Ok(Some(message)) => messages.push(message.into_bytes().unwrap()),
                Ok(None) => break,
                Err(status) => return (messages, Some(status.code)),
            }
        }
    }
    let code = framed.end().err().map(|status| status.code);
    (messages, code)
}

/// The simplest reader: contiguous bytes, one message after the other.
fn plainest(mut stream: &[u8], encoding: Encoding, limit: usize) -> Outcome {
    const TOO_LARGE: u8 = 8;
    const MALFORMED: u8 = 13;
    let mut messages = Vec::new();
    let code = loop {
        let Some((prefix, rest)) = stream.split_first_chunk::<PREFIX>() else {
            break (!stream.is_empty()).then_some(MALFORMED);
        };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > limit {
            break Some(TOO_LARGE);
        }
        let Some((message, rest)) = rest.split_at_checked(length) else { break Some(MALFORMED) };
        stream = rest;
        let message = match (prefix[0], encoding) {
            (0, _) => message.to_vec(),
            (1, Encoding::Deflate) => match expanded(ZlibDecoder::new(message), limit) {
                Ok(message) => message,
                Err(code) => break Some(code),
            },
            (1, Encoding::Gzip) => match expanded(GzDecoder::new(message), limit) {
                Ok(message) => message,
                Err(code) => break Some(code),
            },
            _ => break Some(MALFORMED),
        };
        messages.push(message.into());
    };
    (messages, code)
}

/// Decompresses byte by byte; returns the code of the error.
fn expanded(mut reader: impl Read, limit: usize) -> Result<Vec<u8>, u8> {
    let (mut message, mut byte) = (Vec::new(), [0]);
    while reader.read(&mut byte).map_err(|_| 13)? == 1 {
        message.push(byte[0]);
        if message.len() > limit {
            return Err(8);
        }
    }
    Ok(message)
}

/// A message that is framed for an answer is read back unchanged.
fn there_and_back(message: &Bytes, encoding: Encoding, limit: usize) {
    let frame = encoding.frame(message.clone());
    let pieces: Vec<_> = std::iter::once(frame.head).chain(frame.tail).collect();
    assert_eq!(read(&pieces, encoding, limit), (vec![message.clone()], None));
}

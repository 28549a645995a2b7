//! The frames of a lone call, and those of its answer.

use bytes::Bytes;

use crate::http2::frames::{DATA, END_HEADERS, END_STREAM, HEAD, HEADERS, PRIORITY, RST_STREAM};

/// The error code of a stream that its client has cancelled.
const CANCEL: u32 = 8;

/// The length in bytes of the fields of a priority, which come before the block of headers.
const PRIORITY_FIELDS: usize = 5;

/// Where the number of the stream is in the head of a frame.
const STREAM: std::ops::Range<usize> = 5..9;

/// The whole frames of one call: a HEADERS frame, and a DATA frame that ends the stream, neither of them padded.
#[derive(Clone)]
pub struct LoneFrames {
    bytes: Bytes,
    pub stream: u32,
    /// The length of the HEADERS frame.
    head: usize,
}

impl LoneFrames {
    /// Copies the frames from some bytes; None if these are anything else.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let Measured { stream, head } = measured(bytes)?;
        Some(Self { bytes: Bytes::copy_from_slice(bytes), stream, head })
    }

    /// The HEADERS frame.
    pub fn head(&self) -> &[u8] {
        &self.bytes[..self.head]
    }

    /// The content of the DATA frame.
    pub fn data(&self) -> Bytes {
        self.bytes.slice(self.head + HEAD..)
    }

    /// The length of this content.
    pub fn data_len(&self) -> usize {
        self.bytes.len() - self.head - HEAD
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The stream of a lone call, and the length of its first frame.
struct Measured {
    stream: u32,
    /// The length of the HEADERS frame.
    head: usize,
}

/// The HEADERS frame of a lone call, and its stream; None if the bytes are anything else.
pub fn lone_head(bytes: &[u8]) -> Option<(&[u8], u32)> {
    measured(bytes).map(|own| (&bytes[..own.head], own.stream))
}

fn measured(bytes: &[u8]) -> Option<Measured> {
    let (head, rest) = split(bytes)?;
    let (data, rest) = split(rest)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let is_head = head[3] == HEADERS && head[4] & !PRIORITY == END_HEADERS;
    let is_data = data[3] == DATA && data[4] == END_STREAM && data[STREAM] == head[STREAM];
    (rest.is_empty() && is_head && is_data && is_client(stream) && !depends_on_itself(head))
        .then_some(Measured { stream, head: head.len() })
}

/// Whether a client may open this stream: its number is odd, and the reserved bit is not set.
fn is_client(stream: u32) -> bool {
    stream % 2 == 1 && stream >> 31 == 0
}

/// Whether a HEADERS frame has a priority that h2 would refuse, or lacks one that its flags announce.
fn depends_on_itself(head: &[u8]) -> bool {
    let depends_on = |fields: &[u8]| [&[fields[0] & 127], &fields[1..4]].concat() == head[STREAM];
    head[4] & PRIORITY != 0 && head.get(HEAD..HEAD + PRIORITY_FIELDS).is_none_or(depends_on)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = bytes.get(..HEAD)?;
    bytes.split_at_checked(HEAD + u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize)
}

/// The block of headers in a HEADERS frame that is not padded.
pub fn block(head: &[u8]) -> &[u8] {
    let skipped = if head[4] & PRIORITY != 0 { PRIORITY_FIELDS } else { 0 };
    head.get(HEAD + skipped..).unwrap_or_default()
}

/// Whether two HEADERS frames differ at most in their streams.
pub fn same_head(one: &[u8], other: &[u8]) -> bool {
    one[..STREAM.start] == other[..STREAM.start] && one[STREAM.end..] == other[STREAM.end..]
}

/// Writes a frame.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // Neither an answer nor a block of headers is longer than a frame may be.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Writes the frames of a call that its client has cancelled on a stream; `head` is the HEADERS frame of any call. No
/// frame ends the stream before the cancellation: h2 refuses a call that ends without the data whose length its headers
/// declare.
pub fn cancelled(out: &mut Vec<u8>, head: &[u8], stream: u32) {
    let begin = out.len();
    out.extend_from_slice(head);
    out[begin + STREAM.start..begin + STREAM.end].copy_from_slice(&stream.to_be_bytes());
    frame(out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(flags: [u8; 2], streams: [u32; 2], block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, HEADERS, flags[0], streams[0], block);
        frame(&mut out, DATA, flags[1], streams[1], b"data");
        out
    }

    #[test]
    fn a_lone_call_is_two_whole_frames_of_one_stream() {
        let whole = frames([END_HEADERS, END_STREAM], [7, 7], b"\x83");
        let read = LoneFrames::read(&whole).unwrap();
        assert_eq!((read.stream, &*read.data(), block(read.head())), (7, &b"data"[..], &b"\x83"[..]));
        assert!((0..whole.len()).all(|end| LoneFrames::read(&whole[..end]).is_none()));
        assert!(LoneFrames::read(&[&whole[..], b"\0"].concat()).is_none());
    }

    #[test]
    fn anything_else_is_none() {
        for (flags, streams) in [
            ([0, 1], [1, 1]),
            ([5, 1], [1, 1]),
            ([12, 1], [1, 1]),
            ([4, 0], [1, 1]),
            ([4, 9], [1, 1]),
            ([4, 1], [1, 3]),
            ([4, 1], [2, 2]),
            ([4, 1], [0, 0]),
            ([4, 1], [1 << 31 | 1, 1 << 31 | 1]),
        ] {
            assert!(LoneFrames::read(&frames(flags, streams, b"\x83")).is_none(), "{flags:?} {streams:?}");
        }
    }

    #[test]
    fn a_stream_may_not_depend_on_itself() {
        let with = |fields: &[u8]| LoneFrames::read(&frames([END_HEADERS | PRIORITY, END_STREAM], [7, 7], fields));
        assert!(with(b"\0\0\0\0\x0f\x83").is_some_and(|own| block(own.head()) == b"\x83"));
        assert!(with(b"\0\0\0\x07\x0f\x83").is_none());
        assert!(with(b"\x80\0\0\x07\x0f\x83").is_none());
        assert!(with(b"\0\0\0\0").is_none());
    }

    #[test]
    fn a_missed_call_is_told_as_a_cancelled_one() {
        let (mut out, whole) = (Vec::new(), frames([END_HEADERS, END_STREAM], [7, 7], b"\x83"));
        cancelled(&mut out, &whole[..10], 9);
        assert_eq!(out, b"\0\0\x01\x01\x04\0\0\0\x09\x83\0\0\x04\x03\0\0\0\0\x09\0\0\0\x08");
    }
}

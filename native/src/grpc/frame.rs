//! Messages and their prefixes: a flag that says whether the message is compressed, and its length.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::compression::{Encoding, Expansion};
use super::status::{INTERNAL, Status};
use crate::memory::CallMemory;
use crate::protobuf::Rope;

/// The length of a prefix, in bytes.
pub const PREFIX: usize = 5;

/// Messages of up to this many bytes are copied after their prefix, and sent as one piece.
const COPIED: usize = 16 * 1024;

/// Compressed messages of up to this many bytes are decompressed where they are read.
const LIGHT: usize = 2 * 1024;

/// The prefix of the following message.
pub fn prefix_of(compressed: bool, length: usize) -> [u8; PREFIX] {
    // A message that is too long for a prefix has been refused earlier.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [compressed.into(), a, b, c, d]
}

/// The flag of a prefix, and the length that it claims; None until it has arrived completely.
pub fn prefix(bytes: &Rope) -> Option<(u8, usize)> {
    let mut prefix = [0; PREFIX];
    (bytes.len() >= PREFIX).then(|| bytes.copy_to(0, &mut prefix))?;
    let [flag, length @ ..] = prefix;
    Some((flag, u32::from_be_bytes(length) as usize))
}

impl Encoding {
    /// A message with its prefix; compressed if that was agreed and makes it smaller.
    pub fn frame(self, message: Bytes) -> Frame {
        if self == Self::Identity {
            return Frame::of(false, message);
        }
        match self.compress(&message) {
            Some(smaller) if smaller.len() < message.len() => Frame::of(true, smaller),
            _ => Frame::of(false, message),
        }
    }
}

/// A message as it is sent: its prefix followed by a copy of it, or, for a large one, the prefix and the message
/// itself.
pub struct Frame {
    pub head: Bytes,
    pub tail: Option<Bytes>,
}

impl Frame {
    fn of(compressed: bool, message: Bytes) -> Self {
        let copied = if message.len() <= COPIED { message.len() } else { 0 };
        let mut head = BytesMut::with_capacity(PREFIX + copied);
        head.put_slice(&prefix_of(compressed, message.len()));
        if copied == message.len() {
            head.put_slice(&message);
            return Self { head: head.freeze(), tail: None };
        }
        Self { head: head.freeze(), tail: Some(message) }
    }
}

/// A received message, with its compression and the limit of its decompression, if it is compressed.
pub struct Message {
    data: Rope,
    compressed: Option<(Encoding, usize)>,
}

impl Message {
    /// Whether decompressing the message takes negligible time: a byte expands to at most a thousand.
    pub fn is_light(&self) -> bool {
        self.compressed.is_none() || self.data.len() <= LIGHT
    }

    /// The decompression of the message in steps; the message itself if it is not compressed.
    pub fn expansion(self, memory: Arc<CallMemory>) -> Result<Expanding, Status> {
        match self.compressed {
            Some((encoding, limit)) => encoding.expansion(self.data, limit, memory).map(Expanding::Steps),
            None => Ok(Expanding::Whole(self.data)),
        }
    }

    pub fn expanded(self) -> Result<Rope, Status> {
        match self.compressed {
            Some((encoding, limit)) => encoding.expand(self.data, limit).map(Rope::from),
            None => Ok(self.data),
        }
    }
}

/// A message, or the work that produces it.
pub enum Expanding {
    Whole(Rope),
    Steps(Expansion),
}

/// Messages and their prefixes, received in arbitrary pieces.
pub struct Framed {
    bytes: Rope,
    encoding: Encoding,
    limit: usize,
    expanded_limit: usize,
}

impl Framed {
    /// `limit` applies to a message as it is sent, `expanded_limit` to a message after decompression.
    pub fn new(encoding: Encoding, limit: usize, expanded_limit: usize) -> Self {
        Self { bytes: Rope::default(), encoding, limit, expanded_limit: expanded_limit.min(limit) }
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn push(&mut self, data: Bytes) {
        self.bytes.push(data);
    }

    /// Returns an error if the stream must not end here.
    pub fn end(&self) -> Result<(), Status> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(Status::new(INTERNAL, "the stream ended within a message"))
    }

    /// Takes the next message, and decompresses it; None if it has not arrived completely.
    #[cfg(feature = "fuzzing")]
    pub fn message(&mut self) -> Result<Option<Rope>, Status> {
        self.received()?.map(Message::expanded).transpose()
    }

    /// Takes the next message; None if it has not arrived completely. The length in its prefix is checked, but no
    /// memory is allocated for that length.
    pub fn received(&mut self) -> Result<Option<Message>, Status> {
        let Some((flag, length)) = prefix(&self.bytes) else { return Ok(None) };
        if length > self.limit {
            return Err(Status::too_large_to_receive(length, self.limit));
        }
        if self.bytes.len() < PREFIX + length {
            return Ok(None);
        }
        self.bytes.take(PREFIX);
        let message = self.bytes.take(length);
        match flag {
            0 => Ok(Some(Message { data: message, compressed: None })),
            1 => Ok(Some(Message { data: message, compressed: Some((self.encoding, self.expanded_limit)) })),
            _ => Err(Status::new(INTERNAL, "a message's compression flag is neither 0 nor 1")),
        }
    }
}

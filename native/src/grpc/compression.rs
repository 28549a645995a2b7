//! How messages are compressed: the negotiation by headers, and the compression itself.

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{HeaderMap, HeaderName};

use super::status::{INTERNAL, Status, UNIMPLEMENTED};
use crate::memory::{self, CallMemory, Kind};
use crate::protobuf::Rope;

static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

const NOT_SAID: &str = "a message is compressed but grpc-encoding does not say how";

/// The number of bytes that are decompressed in one step, which takes a millisecond or two: then other tasks can run.
const STEP: usize = 1 << 20;

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Deflate,
    Gzip,
}

impl Encoding {
    /// The compression of a request's messages, according to its grpc-encoding header.
    pub fn of_request(name: &[u8]) -> Result<Self, Status> {
        Self::named(name).ok_or_else(|| {
            let name = String::from_utf8_lossy(name);
            Status::new(UNIMPLEMENTED, format!("Compression algorithm '{name}' not supported."))
        })
    }

    /// The algorithm with a number of grpc_compression_algorithm; an unknown number means no compression.
    pub fn numbered(number: u8) -> Self {
        match number {
            1 => Self::Deflate,
            2 => Self::Gzip,
            _ => Self::Identity,
        }
    }

    /// Returns `wanted` if the client accepts it; otherwise no compression.
    pub fn of_response(headers: &HeaderMap, wanted: Self) -> Self {
        if wanted == Self::Identity {
            return wanted; // the usual default: the headers need not be searched
        }
        let mut accepted =
            headers.get_all(&GRPC_ACCEPT_ENCODING).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
        if accepted.any(|name| Self::named(name.trim_ascii()) == Some(wanted)) { wanted } else { Self::Identity }
    }

    fn named(name: &[u8]) -> Option<Self> {
        [Self::Identity, Self::Deflate, Self::Gzip].into_iter().find(|encoding| encoding.name().as_bytes() == name)
    }

    /// The name of the algorithm in headers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
        }
    }

    /// Decompresses a message. Fails if no compression is named, the result is larger than `limit` bytes, or the data
    /// is invalid.
    pub fn expand(self, data: Rope, limit: usize) -> Result<Bytes, Status> {
        let data = data.into_reader();
        match self {
            Self::Identity => Err(Status::new(INTERNAL, NOT_SAID)),
            Self::Deflate => expand(ZlibDecoder::new(data), limit),
            Self::Gzip => expand(GzDecoder::new(data), limit),
        }
    }

    /// Begins to decompress a message in steps. Fails if no compression is named. A step fails if the memory budget has
    /// no room for it, the result is larger than `limit` bytes, or the data is invalid.
    pub fn expansion(self, data: Rope, limit: usize, memory: Arc<CallMemory>) -> Result<Expansion, Status> {
        let data = data.into_reader();
        let decoder: Box<dyn Read + Send> = match self {
            Self::Identity => return Err(Status::new(INTERNAL, NOT_SAID)),
            Self::Deflate => Box::new(ZlibDecoder::new(data)),
            Self::Gzip => Box::new(GzDecoder::new(data)),
        };
        Ok(Expansion { decoder, message: Vec::new(), limit, memory })
    }

    /// Compresses a message. Returns None for `Identity`, or if there is no memory for the result.
    pub fn compress(self, message: &[u8]) -> Option<Bytes> {
        // Incompressible data grows by 5 bytes per block of at least some kilobytes; memory that is not written is free.
        let room = memory::buffer(message.len() + message.len() / 256 + 64).ok()?.writer();
        let compressed = match self {
            Self::Identity => return None,
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(room, Compression::fast());
                encoder.write_all(message).ok()?;
                encoder.finish()
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(room, Compression::fast());
                encoder.write_all(message).ok()?;
                encoder.finish()
            }
        };
        Some(compressed.ok()?.into_inner().freeze())
    }
}

/// A message that is being decompressed.
pub struct Expansion {
    decoder: Box<dyn Read + Send>,
    message: Vec<u8>,
    limit: usize,
    memory: Arc<CallMemory>,
}

impl Expansion {
    /// Decompresses the next part of the message; returns the message once it is complete.
    pub fn step(&mut self) -> Result<Option<Bytes>, Status> {
        if !self.memory.grow(Kind::Expanded, STEP) {
            return Err(Status::no_memory(self.memory.budget()));
        }
        let expanded = self.decoder.by_ref().take(STEP as u64).read_to_end(&mut self.message);
        let count = expanded.map_err(|error| cannot_expand(&error, self.message.len() + STEP))?;
        if self.message.len() > self.limit {
            return Err(Status::too_large_to_receive(format!("more than {}", self.limit), self.limit));
        }
        Ok((count < STEP).then(|| std::mem::take(&mut self.message).into()))
    }
}

fn cannot_expand(error: &std::io::Error, size: usize) -> Status {
    if error.kind() == ErrorKind::OutOfMemory {
        return Status::cannot_allocate(size);
    }
    Status::new(INTERNAL, format!("a compressed message cannot be expanded: {error}"))
}

fn expand(decoder: impl Read, limit: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = decoder.take(most).read_to_end(&mut message) {
        return Err(cannot_expand(&error, message.len() + STEP));
    }
    if message.len() > limit {
        return Err(Status::too_large_to_receive(format!("more than {limit}"), limit));
    }
    Ok(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::RESOURCE_EXHAUSTED;

    #[test]
    fn expansion_is_bounded() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let bomb = encoding.compress(&vec![0; 1_000_000]).unwrap();
            let expanded = |limit| encoding.expand(bomb.clone().into(), limit);
            assert_eq!(expanded(1_000_000).unwrap().len(), 1_000_000);
            assert_eq!(expanded(999_999).unwrap_err().code, RESOURCE_EXHAUSTED);
        }
    }
}

//! Bodies as they come in, in bounds.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use rustix::fs::MemfdFlags;

/// A body up to here is read where its connection lives: a tenth of a millisecond.
pub const SMALL: usize = 64 << 10;

/// The most that is reserved for a body before it has come: memory that is not written to costs nothing.
const RESERVED: usize = 64 << 20;

/// TF Serving: gzip_zlib.h has this limit for a body that was compressed.
const MAX_INFLATED: u32 = 100 << 20;

/// Nothing has come for so long: a server that stops waits for no more.
const STALLED: Duration = Duration::from_secs(2);

/// A body as it was sent.
#[derive(Clone)]
pub struct Body {
    pub bytes: Bytes,
    pub is_gzip: bool,
}

/// Why there is no body.
pub enum Missing {
    TooLarge,
    /// The connection has broken, or what came over it is no HTTP.
    Gone,
}

impl Body {
    /// Writes it to a file in memory without a name: how Python hands it on to another process.
    pub fn into_file(self) -> io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("headrace", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.bytes)?;
        Ok(file.into())
    }

    /// Takes in a body of at most so many bytes. Once the server stops, one of which nothing more comes is given up.
    pub async fn take(
        headers: &HeaderMap,
        incoming: Incoming,
        most: usize,
        stopping: impl Fn() -> bool,
    ) -> Result<Self, Missing> {
        if is_announced_too_large(headers, most) {
            return Err(Missing::TooLarge);
        }
        let is_gzip = headers.get(CONTENT_ENCODING).is_some_and(|coding| contains(coding.as_bytes(), b"gzip"));
        Ok(Self { bytes: collect(incoming, most, stopping).await?, is_gzip })
    }

    /// What it holds; None if it is compressed and does not hold what it says, or too much.
    pub fn content(&self) -> Option<Bytes> {
        if !self.is_gzip {
            return Some(self.bytes.clone());
        }
        let size = gzip_size(&self.bytes).filter(|size| *size <= MAX_INFLATED)?;
        let mut content = Vec::new();
        GzDecoder::new(&*self.bytes).take(u64::from(size) + 1).read_to_end(&mut content).ok()?;
        (content.len() == size as usize).then(|| content.into())
    }
}

/// The size that gzip data says it expands to, in its last four bytes.
fn gzip_size(data: &[u8]) -> Option<u32> {
    data.last_chunk().copied().map(u32::from_le_bytes)
}

/// Whether a client waits to be told to send a body that it need not send.
fn is_announced_too_large(headers: &HeaderMap, most: usize) -> bool {
    let waits = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let length = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
    waits && length().is_some_and(|length| length > most as u64)
}

async fn collect(mut incoming: Incoming, most: usize, stopping: impl Fn() -> bool) -> Result<Bytes, Missing> {
    let expected = incoming.size_hint().lower().min(RESERVED as u64) as usize;
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    let mut size = 0;
    loop {
        let Ok(next) = tokio::time::timeout(STALLED, incoming.frame()).await else {
            if stopping() {
                return Err(Missing::Gone);
            }
            continue;
        };
        let Some(frame) = next else { break };
        let Ok(piece) = frame.map_err(|_| Missing::Gone)?.into_data() else { continue };
        size += piece.len();
        if size > most {
            return Err(Missing::TooLarge);
        }
        if first.is_empty() && whole.is_empty() {
            first = piece; // the only one of most bodies, which is not copied
            continue;
        }
        if whole.is_empty() {
            whole.reserve(expected);
            whole.extend_from_slice(&std::mem::take(&mut first));
        }
        whole.extend_from_slice(&piece);
    }
    Ok(if whole.is_empty() { first } else { whole.into() })
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

//! Request bodies as they arrive, with limits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming};
use rustix::fs::MemfdFlags;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::spares::Spares;
use crate::memory::{CallMemory, Kind, NoMemory, append};

/// A body of up to this size is parsed on its connection's thread, which takes a tenth of a millisecond.
pub const SMALL: usize = 64 << 10;

/// The maximum number of bytes that are allocated for a body before it has arrived: memory that is never written
/// costs nothing.
const RESERVED: usize = 64 << 20;

/// TF Serving's gzip_zlib.h has this limit for a body that was compressed.
const MAX_INFLATED: u32 = 100 << 20;

/// How long a stopping server waits for the next byte of a request.
pub const STALLED: Duration = Duration::from_secs(2);

/// A body as it was sent.
#[derive(Clone)]
pub struct Body {
    pub bytes: Bytes,
    pub is_gzip: bool,
    /// The memory that is reserved for the request.
    pub memory: Arc<CallMemory>,
}

/// The largest size of a body, and the longest time between two of its pieces.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub size: usize,
    pub stall: Option<Duration>,
}

/// The reason why there is no body.
pub enum Missing {
    TooLarge,
    NoMemory(NoMemory),
    /// The connection has failed, or its content is not HTTP.
    Gone,
}

impl From<NoMemory> for Missing {
    fn from(reason: NoMemory) -> Self {
        Self::NoMemory(reason)
    }
}

impl Body {
    /// Writes the body to an anonymous file in memory, so that it can be passed to another process.
    pub fn into_file(self) -> io::Result<OwnedFd> {
        let mut file = File::from(rustix::fs::memfd_create("headrace", MemfdFlags::CLOEXEC)?);
        file.write_all(&self.bytes)?;
        Ok(file.into())
    }

    /// Reads a body. Once the server stops, a body of which nothing more arrives is abandoned.
    pub async fn take(
        headers: &HeaderMap,
        incoming: Incoming,
        bounds: Bounds,
        (memory, spares): (Arc<CallMemory>, &Spares),
        stopping: impl Fn() -> bool,
    ) -> Result<Self, Missing> {
        if is_announced_too_large(headers, bounds.size) {
            return Err(Missing::TooLarge);
        }
        let is_gzip = headers.get(CONTENT_ENCODING).is_some_and(|coding| contains(coding.as_bytes(), b"gzip"));
        let bytes = collect(incoming, bounds, (&memory, spares), stopping).await?;
        Ok(Self { bytes, is_gzip, memory })
    }

    /// Frees the bytes, or keeps the buffer of a large body for a later one. Large buffers that are not kept are freed
    /// on another thread, since returning so many pages to the kernel takes a millisecond. Until then, their memory
    /// stays reserved even if the call has ended, as that thread may first parse other bodies.
    pub fn release(&mut self, spares: &Spares) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() <= SMALL {
            return;
        }
        let Ok(buffer) = bytes.try_into_mut() else { return }; // the call's arrays refer to it
        let freed = spares.keep(buffer, Instant::now());
        if !freed.is_empty() {
            let freed = (freed, self.memory.clone());
            spawn_blocking(move || drop(freed));
        }
    }

    /// The content of the body; None if it is compressed and invalid or too large.
    pub fn content(&self) -> Option<Bytes> {
        if !self.is_gzip {
            return Some(self.bytes.clone());
        }
        let size = gzip_size(&self.bytes).filter(|size| *size <= MAX_INFLATED)?;
        if !self.memory.set(Kind::Expanded, size as usize) {
            return None; // Python meets the same limit, and refuses the request
        }
        let mut content = Vec::new();
        GzDecoder::new(&*self.bytes).take(u64::from(size) + 1).read_to_end(&mut content).ok()?;
        (content.len() == size as usize).then(|| content.into())
    }
}

/// The size of gzip data after decompression, as stated in its last four bytes.
fn gzip_size(data: &[u8]) -> Option<u32> {
    data.last_chunk().copied().map(u32::from_le_bytes)
}

/// Whether a client that waits for `100 Continue` announces a body that is too large.
fn is_announced_too_large(headers: &HeaderMap, most: usize) -> bool {
    let waits = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let length = || headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse::<u64>().ok();
    waits && length().is_some_and(|length| length > most as u64)
}

/// Waits for the next piece of a body; an error if the client has sent nothing for too long, or the server stops.
async fn next(incoming: &mut Incoming, bounds: Bounds, stopping: &impl Fn() -> bool) -> Result<Option<Piece>, Missing> {
    let began = Instant::now();
    let step = bounds.stall.map_or(STALLED, |stall| stall.min(STALLED));
    loop {
        match timeout(step, incoming.frame()).await {
            Ok(next) => return Ok(next),
            Err(_) if stopping() || bounds.stall.is_some_and(|stall| began.elapsed() >= stall) => {
                return Err(Missing::Gone);
            }
            Err(_) => {}
        }
    }
}

type Piece = Result<Frame<Bytes>, hyper::Error>;

async fn collect(
    mut incoming: Incoming,
    bounds: Bounds,
    (memory, spares): (&CallMemory, &Spares),
    stopping: impl Fn() -> bool,
) -> Result<Bytes, Missing> {
    let expected = incoming.size_hint().lower().min(RESERVED as u64) as usize;
    let mut first = Bytes::new();
    let mut whole = BytesMut::new();
    let (mut size, mut reserved) = (0, 0);
    while let Some(frame) = next(&mut incoming, bounds, &stopping).await? {
        let Ok(piece) = frame.map_err(|_| Missing::Gone)?.into_data() else { continue };
        size += piece.len();
        if size > bounds.size {
            return Err(Missing::TooLarge);
        }
        if size > reserved {
            if !memory.receive(size - reserved) {
                return Err(NoMemory::Budget.into());
            }
            reserved = size;
        }
        if first.is_empty() && whole.is_empty() {
            first = piece; // most bodies have one piece, which is not copied
            continue;
        }
        if whole.is_empty() {
            (whole, reserved) = buffer(expected, reserved, (memory, spares))?;
            append(&mut whole, &std::mem::take(&mut first))?;
        }
        append(&mut whole, &piece)?;
    }
    Ok(if whole.is_empty() { first } else { whole.freeze() })
}

/// A buffer for a body of this size, and the number of bytes that are then reserved for the body; `reserved` is that
/// number before. The pages of a kept buffer are in memory before the body has arrived, so all of it is reserved.
fn buffer(
    size: usize,
    reserved: usize,
    (memory, spares): (&CallMemory, &Spares),
) -> Result<(BytesMut, usize), NoMemory> {
    let reserve = |capacity: usize| memory.grow_if_free(Kind::Received, capacity.saturating_sub(reserved));
    if let Some(kept) = spares.take(size, reserve) {
        let reserved = reserved.max(kept.capacity());
        return Ok((kept, reserved));
    }
    Ok((Spares::new_buffer(size)?, reserved))
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::memory::{Budget, Share};

    fn runtime() -> Runtime {
        Builder::new_current_thread().max_blocking_threads(1).build().unwrap()
    }

    #[test]
    fn a_large_body_leaves_its_buffer_to_the_next_one() {
        const LARGE: usize = 1 << 20;
        let (budget, spares) = (Arc::new(Budget::new(10 * LARGE)), Spares::new(LARGE, Duration::MAX));
        runtime().block_on(async {
            let places = [(); 2].map(|()| {
                let memory = Arc::new(CallMemory::new(Arc::new(Share::new(budget.clone()))));
                let (mut whole, reserved) = buffer(LARGE, 0, (&memory, &spares)).unwrap();
                assert!(memory.receive(LARGE - reserved));
                whole.extend_from_slice(&[7; LARGE]);
                let mut body = Body { bytes: whole.freeze(), is_gzip: false, memory };
                let place = body.bytes.as_ptr();
                body.release(&spares);
                drop(body);
                assert_eq!(budget.by_kind()[Kind::Received as usize], 0);
                place
            });
            assert_eq!(places[0], places[1]);
        });
    }

    #[test]
    fn all_of_a_kept_buffer_is_reserved_before_the_body_has_arrived() {
        const LARGE: usize = 2 << 20;
        let (budget, spares) = (Arc::new(Budget::new(2 * LARGE)), Spares::new(LARGE, Duration::MAX));
        let held = || budget.by_kind()[Kind::Received as usize];
        let call = || CallMemory::new(Arc::new(Share::new(budget.clone())));
        let keep = |kept| assert!(spares.keep(kept, Instant::now()).is_empty());
        keep(Spares::new_buffer(LARGE).unwrap());
        {
            let memory = call();
            assert!(memory.receive(7));
            let (kept, reserved) = buffer(LARGE - 9, 7, (&memory, &spares)).unwrap();
            assert_eq!((reserved, held()), (LARGE, LARGE));
            keep(kept);
        }
        // Without enough memory for all of it, the body gets a new buffer, which takes memory as the body arrives.
        let (other, memory) = (call(), call());
        assert!(other.receive(LARGE) && memory.receive(7));
        let (_new, reserved) = buffer(LARGE, 7, (&memory, &spares)).unwrap();
        assert_eq!((reserved, held(), budget.refusals()), (7, LARGE + 7, 0));
        assert!(spares.take(LARGE, |_| true).is_some());
    }

    #[test]
    fn memory_is_reserved_until_a_large_body_has_been_freed() {
        const LARGE: usize = SMALL + 1;
        let budget = Arc::new(Budget::new(10 * LARGE));
        let memory = Arc::new(CallMemory::new(Arc::new(Share::new(budget.clone()))));
        assert!(memory.receive(LARGE));
        let mut body = Body { bytes: vec![0; LARGE].into(), is_gzip: false, memory };
        let held = || budget.by_kind()[Kind::Received as usize];
        let runtime = runtime();
        let (go_on, signal) = mpsc::channel();
        runtime.block_on(async {
            let busy = spawn_blocking(move || signal.recv());
            body.release(&Spares::new(0, Duration::ZERO));
            drop(body);
            assert_eq!(held(), LARGE);
            go_on.send(()).unwrap();
            busy.await.unwrap().unwrap();
            spawn_blocking(|| ()).await.unwrap();
            assert_eq!(held(), 0);
        });
    }
}

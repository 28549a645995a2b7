//! Buffers whose size depends on a request, or on the outputs of a model.
//!
//! If the system has no memory for one of them, only its call fails. Rust's collections would end the process.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

use bytes::{Bytes, BytesMut};

use super::{CallMemory, Kind};

/// The size, in bytes, up to which a buffer is allocated without a check.
const SMALL: usize = 64 << 10;

/// The number of bytes by which a large buffer grows if it cannot grow by half.
const STEP: usize = 1 << 20;

/// The reason why a buffer cannot be allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoMemory {
    /// Too little is left of the budget for all clients.
    Budget,
    /// The system does not give the process this many more bytes.
    System(usize),
}

/// An empty buffer of this capacity, in bytes.
pub fn buffer(capacity: usize) -> Result<BytesMut, NoMemory> {
    if capacity <= SMALL {
        return Ok(BytesMut::with_capacity(capacity));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity).map_err(|_| NoMemory::System(capacity))?;
    Ok(from_vec(bytes))
}

/// An empty vector of this capacity, in bytes.
///
/// Panics if there is no memory for it, so that `bridge::catch_panic` can fail the batch for which it is needed.
pub fn vec(capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(capacity).expect("there is no memory for a part of a batch");
    bytes
}

/// A copy of these bytes.
pub fn copied(bytes: &[u8]) -> Result<Bytes, NoMemory> {
    let mut copy = buffer(bytes.len())?;
    copy.extend_from_slice(bytes);
    Ok(copy.freeze())
}

/// Appends these bytes to a buffer, which at least doubles its capacity if it has to grow.
pub fn append(buffer: &mut BytesMut, bytes: &[u8]) -> Result<(), NoMemory> {
    reserve(buffer, bytes.len())?;
    buffer.extend_from_slice(bytes);
    Ok(())
}

/// Makes room for this many more bytes in a buffer, which at least doubles its capacity if it has to grow.
pub fn reserve(buffer: &mut BytesMut, more: usize) -> Result<(), NoMemory> {
    if buffer.capacity() - buffer.len() >= more {
        return Ok(());
    }
    if buffer.len() + more <= SMALL {
        buffer.reserve(more);
        return Ok(());
    }
    reserve_with(buffer, |buffer| buffer.try_reserve(more))
}

/// Appends these bytes to a part of a request that is being read; None if there is no memory for them.
#[inline]
pub fn put(part: &mut Vec<u8>, bytes: &[u8]) -> Option<()> {
    part.try_reserve(bytes.len()).ok()?;
    part.extend_from_slice(bytes);
    Some(())
}

/// Makes room in a buffer, which keeps its bytes if there is no memory for more.
fn reserve_with(
    buffer: &mut BytesMut,
    reserve: impl FnOnce(&mut Vec<u8>) -> Result<(), TryReserveError>,
) -> Result<(), NoMemory> {
    let mut bytes = Vec::from(std::mem::take(buffer));
    let reserved = reserve(&mut bytes).map_err(|_| NoMemory::System(bytes.len()));
    *buffer = from_vec(bytes);
    reserved
}

/// The same bytes with the same capacity, which are not copied.
fn from_vec(bytes: Vec<u8>) -> BytesMut {
    Bytes::from(bytes).try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared))
}

/// The body of an answer whose size is only known once it has been written. It grows as long as there is memory for it
/// in the budget and in the system.
pub struct Growing<'a> {
    bytes: BytesMut,
    memory: &'a CallMemory,
    /// The size up to which there is room. Only maintained in builds with assertions, which find writes without room.
    roomy: usize,
}

impl<'a> Growing<'a> {
    /// An empty body, with room for about this many bytes if there is memory for them.
    pub fn new(about: usize, memory: &'a CallMemory) -> Self {
        let mut new = Self { bytes: BytesMut::new(), memory, roomy: 0 };
        if about <= SMALL || new.grow_to(about).is_err() {
            new.bytes.reserve(about.min(SMALL));
        }
        new
    }

    /// Makes room for this many more bytes. No more than that may be written until the next call.
    pub fn room(&mut self, more: usize) -> Result<(), NoMemory> {
        if cfg!(debug_assertions) {
            self.check();
            self.roomy = self.bytes.len() + more;
        }
        if self.bytes.capacity() - self.bytes.len() >= more {
            return Ok(());
        }
        self.grow(more)
    }

    #[cold]
    fn grow(&mut self, more: usize) -> Result<(), NoMemory> {
        let wanted = self.bytes.len() + more;
        if wanted + wanted / 2 <= SMALL {
            self.bytes.reserve(more);
            return Ok(());
        }
        // Growth by half keeps copies rare. If there is not enough memory for that, the buffer grows by less.
        let grown = self.grow_to(wanted + wanted / 2).or_else(|_| self.grow_to(wanted + STEP));
        if grown == Err(NoMemory::Budget) {
            self.memory.count_refusal();
        }
        grown
    }

    fn grow_to(&mut self, capacity: usize) -> Result<(), NoMemory> {
        if !self.memory.set_if_free(Kind::Answers, capacity) {
            return Err(NoMemory::Budget);
        }
        let more = capacity - self.bytes.len();
        reserve_with(&mut self.bytes, |bytes| bytes.try_reserve_exact(more)).map_err(|_| NoMemory::System(capacity))
    }

    fn check(&self) {
        debug_assert!(
            self.bytes.len() <= self.roomy,
            "{} bytes were written without room",
            self.bytes.len() - self.roomy
        );
    }

    /// The bytes that have been written.
    pub fn into_bytes(self) -> BytesMut {
        self.check();
        self.bytes
    }
}

impl Deref for Growing<'_> {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Growing<'_> {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Budget, Share};
    use super::*;

    /// More bytes than any system has.
    const ENDLESS: usize = isize::MAX as usize;

    fn memory(limit: usize) -> CallMemory {
        CallMemory::new(Arc::new(Share::new(Arc::new(Budget::new(limit)))))
    }

    #[test]
    fn a_buffer_has_its_capacity() {
        for capacity in [0, 7, SMALL, SMALL + 1, 3 * STEP] {
            let buffer = buffer(capacity).unwrap();
            assert!(buffer.is_empty() && buffer.capacity() >= capacity, "{capacity} bytes");
        }
        assert_eq!(buffer(ENDLESS), Err(NoMemory::System(ENDLESS)));
    }

    #[test]
    fn a_buffer_grows_with_its_bytes() {
        let mut buffer = BytesMut::new();
        for size in [0, 1, SMALL, STEP] {
            append(&mut buffer, &vec![7; size]).unwrap();
        }
        assert_eq!(buffer, vec![7; 1 + SMALL + STEP]);
    }

    #[test]
    fn a_buffer_that_cannot_grow_keeps_its_bytes() {
        for size in [0, 5, SMALL + 5] {
            let mut buffer = BytesMut::from(&*vec![7; size]);
            let reserved = reserve_with(&mut buffer, |bytes| bytes.try_reserve_exact(ENDLESS - size));
            assert_eq!((reserved, buffer), (Err(NoMemory::System(size)), vec![7; size].as_slice().into()));
        }
    }

    #[test]
    fn a_copy_is_equal() {
        for size in [0, 1, SMALL, SMALL + 1] {
            assert_eq!(copied(&vec![9; size]).unwrap(), vec![9; size]);
        }
    }

    #[test]
    fn a_body_grows_within_the_budget() {
        // A single connection may take half of the budget.
        let memory = memory(8 * STEP);
        let mut body = Growing::new(usize::MAX / 4, &memory);
        while body.room(1000).is_ok() {
            body.extend_from_slice(&[1; 1000]);
        }
        assert_eq!(body.room(1000), Err(NoMemory::Budget));
        assert!(body.len() > 2 * STEP && body.capacity() <= 4 * STEP);
        let written = body.len();
        assert_eq!(body.into_bytes(), vec![1; written]);
        assert_eq!(memory.budget().refusals(), 2);
    }

    #[test]
    fn a_body_of_the_expected_size_is_not_moved() {
        let memory = memory(8 * STEP);
        let mut body = Growing::new(STEP, &memory);
        let place = body.as_ptr();
        body.room(STEP).unwrap();
        body.extend_from_slice(&vec![1; STEP]);
        assert_eq!((body.as_ptr(), body.into_bytes().len()), (place, STEP));
    }
}

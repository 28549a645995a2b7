//! Regions of system shared memory that callers have registered, and the parts of them that contain a request's
//! tensors.
//!
//! A region is read through its file, not through a mapping: if another process shrinks the object, the kernel then
//! returns fewer bytes, while access to a mapping beyond the end would crash this process with SIGBUS.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use crate::grpc::{INVALID_ARGUMENT, Status};

/// A part of a shared memory object.
pub struct Region {
    name: String,
    file: File,
    /// The offset in the object, in bytes.
    offset: u64,
    size: u64,
}

/// The regions that plain requests may name, as in `services/open_inference/regions.py`.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct Regions(RwLock<FxHashMap<Vec<u8>, Arc<Region>>>);

#[pymethods]
impl Regions {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Adds a region of an object, which is opened again by its descriptor.
    fn put(&self, name: String, descriptor: i32, offset: u64, size: u64) -> PyResult<()> {
        let file = File::open(format!("/proc/self/fd/{descriptor}"))?;
        self.0.write().insert(name.clone().into_bytes(), Arc::new(Region { name, file, offset, size }));
        Ok(())
    }

    /// Removes a region, if it exists.
    fn remove(&self, name: &str) {
        self.0.write().remove(name.as_bytes());
    }

    fn clear(&self) {
        self.0.write().clear();
    }
}

impl Regions {
    /// A part of a region; None if there is no such region or part, or if the shared memory object has been shrunk.
    pub fn part(&self, name: &[u8], offset: u64, size: usize) -> Option<Part> {
        let region = self.0.read().get(name)?.clone();
        let end = offset.checked_add(size as u64).filter(|end| *end <= region.size)?;
        let is_there = region.offset + end <= region.file.metadata().ok()?.len();
        is_there.then(|| Part { offset: region.offset + offset, region, was_short: AtomicBool::new(false) })
    }
}

/// The position of a tensor's bytes in shared memory, which are read when its batch is joined.
pub struct Part {
    region: Arc<Region>,
    /// The offset from the beginning of the object, in bytes.
    offset: u64,
    /// Whether bytes were missing when they were read.
    was_short: AtomicBool,
}

impl Part {
    /// Reads the bytes. If some no longer exist, the target is filled with zeros, and the request must be refused.
    pub fn copy_to(&self, target: &mut [u8]) {
        if self.region.file.read_exact_at(target, self.offset).is_err() {
            target.fill(0); // otherwise the previous content of this memory would get into a batch
            self.was_short.store(true, Ordering::Relaxed);
        }
    }

    /// The reason why the request cannot be answered; None if it can.
    pub fn refusal(&self) -> Option<Status> {
        let text = || format!("shared memory region '{}' is smaller than when it was registered", self.region.name);
        self.was_short.load(Ordering::Relaxed).then(|| Status::new(INVALID_ARGUMENT, text()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use rustix::fs::MemfdFlags;

    use super::*;

    fn object(bytes: &[u8]) -> (File, Regions) {
        let mut file = File::from(rustix::fs::memfd_create("regions", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        let regions = Regions::new();
        regions.put("r".into(), file.as_raw_fd(), 2, bytes.len() as u64 - 2).unwrap();
        (file, regions)
    }

    #[test]
    fn parts_within_a_region() {
        let (_file, regions) = object(b"__abcdef");
        let mut bytes = [0; 3];
        regions.part(b"r", 1, 3).unwrap().copy_to(&mut bytes);
        assert_eq!(&bytes, b"bcd");
        for (name, offset, size) in [(&b"r"[..], 4, 3), (b"r", u64::MAX, 3), (b"r", 7, 0), (b"q", 0, 1)] {
            assert!(regions.part(name, offset, size).is_none(), "{offset} {size}");
        }
        regions.remove("r");
        assert!(regions.part(b"r", 0, 1).is_none());
    }

    #[test]
    fn an_object_that_shrinks_while_a_request_waits() {
        let (file, regions) = object(b"__abcdef");
        let part = regions.part(b"r", 0, 6).unwrap();
        assert!(part.refusal().is_none());
        file.set_len(4).unwrap();
        let mut bytes = [7; 6];
        part.copy_to(&mut bytes);
        assert_eq!(bytes, [0; 6]);
        assert!(part.refusal().unwrap().text.contains("smaller than when it was registered"));
        assert!(regions.part(b"r", 0, 6).is_none());
    }
}

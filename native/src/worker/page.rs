//! A page of memory that two processes share.

use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::io;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::direction::Direction;

/// The content of the page. Every field is atomic, and any bytes are valid, so that another process may write at any
/// time.
#[repr(C)]
pub struct Contents {
    pub to_worker: Direction,
    pub to_server: Direction,
}

/// The mapped page, which is unmapped when this is dropped.
pub struct Page(NonNull<Contents>);

impl Page {
    /// The page's size in bytes: that of its file.
    pub const SIZE: usize = size_of::<Contents>();

    /// Maps a file of at least `SIZE` bytes that can never shrink.
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        if rustix::fs::fstat(file)?.st_size < Self::SIZE as i64 {
            return Err(io::Errno::INVAL);
        }
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses an address at which nothing is mapped.
        let address = unsafe { mmap(std::ptr::null_mut(), Self::SIZE, access, MapFlags::SHARED, file, 0)? };
        NonNull::new(address.cast()).map(Self).ok_or(io::Errno::NOMEM)
    }
}

impl Deref for Page {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        // SAFETY: the mapping is as large as `Contents`, is aligned to a page, and lives as long as `self`. Its bytes
        // are only accessed as atomics, of which every value is valid.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping now, since references to it borrow `self`.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), Self::SIZE) };
    }
}

// SAFETY: the contents are atomics, which any thread may access.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn a_file_that_is_too_short_is_refused() {
        let file = memfd_create("page", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, Page::SIZE as u64 - 1).unwrap();
        assert_eq!(Page::map(file.as_fd()).err(), Some(io::Errno::INVAL));
    }

    #[test]
    fn two_mappings_are_one_memory() {
        let file = memfd_create("page", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, Page::SIZE as u64).unwrap();
        let (one, other) = (Page::map(file.as_fd()).unwrap(), Page::map(file.as_fd()).unwrap());
        assert!(one.to_worker.send(b"so"));
        assert_eq!(other.to_worker.take(), Some(Some(b"so".to_vec())));
        assert_eq!(other.to_server.take(), None);
    }
}

//! The allocator of the native module: mimalloc for small blocks, the system's for large ones.
//!
//! A call's objects are allocated on one thread and freed on another. In glibc's malloc, the two threads contend for a
//! lock; with mimalloc, a plain Predict takes 30% less CPU. Large buffers stay with the system's allocator, which
//! returns their memory to the kernel at once or when it is trimmed, and whose statistics the metrics show.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{copy_nonoverlapping, null_mut};

use mimalloc::MiMalloc;

/// The size, in bytes, up to which a block is small: a plain call with a few numbers needs no larger one.
const SMALL: usize = 4096;

/// Chooses the allocator of a block by its size alone: the size is stated again when the block is freed, and leads to
/// the same allocator.
pub struct BySize;

fn is_small(size: usize) -> bool {
    size <= SMALL
}

// SAFETY: Each block is freed and resized by the allocator that it came from, since `Layout` has the size that it was
// allocated with.
#[expect(unsafe_op_in_unsafe_fn, reason = "each function relies on what its caller guarantees")]
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_small(layout.size()) { MiMalloc.alloc(layout) } else { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_small(layout.size()) { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if is_small(layout.size()) { MiMalloc.dealloc(block, layout) } else { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match (is_small(layout.size()), is_small(size)) {
            (true, true) => MiMalloc.realloc(block, layout, size),
            (false, false) => System.realloc(block, layout, size),
            _ => self.moved(block, layout, size),
        }
    }
}

#[expect(unsafe_op_in_unsafe_fn, reason = "as for `GlobalAlloc`")]
impl BySize {
    /// Moves a block to the other allocator. If that has no memory, returns null and leaves the block as it was.
    ///
    /// # Safety
    /// As for `GlobalAlloc::realloc`.
    unsafe fn moved(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return null_mut() };
        let place = self.alloc(wanted);
        if !place.is_null() {
            copy_nonoverlapping(block, place, layout.size().min(size));
            self.dealloc(block, layout);
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_grows_and_shrinks_keeps_its_bytes() {
        let mut bytes: Vec<u8> = Vec::new();
        for size in [1, SMALL - 1, SMALL, SMALL + 1, 40 * SMALL] {
            bytes.extend((bytes.len()..size).map(|place| place as u8));
            bytes.shrink_to_fit();
        }
        for size in [40 * SMALL, 2 * SMALL, SMALL + 1, SMALL, SMALL - 1, 1] {
            bytes.truncate(size);
            bytes.shrink_to_fit();
            assert!(bytes.iter().enumerate().all(|(place, byte)| *byte == place as u8), "{size} bytes");
        }
    }

    #[test]
    fn zeroed_blocks_of_both_sizes_are_zero() {
        for size in [SMALL, SMALL + 1] {
            // Overwrites the memory that is likely to be allocated next.
            drop(vec![0xff_u8; size]);
            assert!(vec![0_u8; size].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn blocks_are_aligned_on_both_sides() {
        for size in [SMALL, 2 * SMALL] {
            let layout = Layout::from_size_align(size, 512).unwrap();
            // SAFETY: The block has the size and the alignment of the layouts.
            unsafe {
                let block = BySize.alloc(layout);
                let other = BySize.realloc(block, layout, 3 * SMALL - size);
                assert!(!other.is_null() && other.align_offset(512) == 0);
                BySize.dealloc(other, Layout::from_size_align(3 * SMALL - size, 512).unwrap());
            }
        }
    }
}

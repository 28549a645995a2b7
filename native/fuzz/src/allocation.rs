//! Counts allocated memory, so that a target can limit what a decoder allocates for its input.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    // A thread that is ending may free memory after its counters are gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every method passes its arguments to the system's allocator unchanged, and returns its result; counting
// allocates nothing, since the initial values of both cells are constants.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of `alloc`, which is also that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc` above, and so from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs a function, which may have at most `limit` more bytes allocated at any time than it started with.
///
/// # Panics If more was allocated.
pub fn at_most<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    MOST.set(before);
    let result = run();
    let held = (MOST.get() - before).max(0) as usize;
    assert!(held <= limit, "{held} bytes were allocated at once; the limit is {limit}");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_use_is_counted() {
        at_most(1000, || drop(vec![0_u8; 1000]));
        assert!(std::panic::catch_unwind(|| at_most(999, || drop(vec![0_u8; 1000]))).is_err());
    }
}

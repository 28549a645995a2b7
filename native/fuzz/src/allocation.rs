//! Counts what is allocated, so that a target can say how much a decoder may take for what came.

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
    // A thread that ends may free what it cannot count any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

// SAFETY: every method hands its arguments on to the system's allocator as they came, and returns what that returns;
// counting allocates nothing, as both cells are constants until they are set.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps `alloc`'s contract, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the pointer came from `alloc` above, and so from the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs something that may hold at most `limit` bytes at once, beyond what is held already.
///
/// # Panics
/// It held more.
pub fn at_most<T>(limit: usize, run: impl FnOnce() -> T) -> T {
    let before = HELD.get();
    MOST.set(before);
    let result = run();
    let held = (MOST.get() - before).max(0) as usize;
    assert!(held <= limit, "{held} bytes were held at once, of {limit} allowed");
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted() {
        at_most(1000, || drop(vec![0_u8; 1000]));
        assert!(std::panic::catch_unwind(|| at_most(999, || drop(vec![0_u8; 1000]))).is_err());
    }
}

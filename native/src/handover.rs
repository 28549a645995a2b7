//! Hands items over to a thread, and wakes it once for many of them, since each wake-up takes a system call.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Items on their way to one thread.
pub struct Handover<T> {
    due: Mutex<Vec<T>>,
    ring: Notify,
}

impl<T> Default for Handover<T> {
    fn default() -> Self {
        Self { due: Mutex::default(), ring: Notify::new() }
    }
}

impl<T> Handover<T> {
    /// Hands an item over. May be called on any thread.
    pub fn put(&self, item: T) {
        let mut due = self.due.lock();
        due.push(item);
        let first = due.len() == 1;
        drop(due);
        if first {
            self.ring.notify_one();
        }
    }

    /// Takes the items in the order in which they were put, on the thread that they are for. Never ends.
    pub async fn run(&self, mut take: impl FnMut(T)) {
        let mut taken = Vec::new();
        loop {
            self.ring.notified().await;
            std::mem::swap(&mut *self.due.lock(), &mut taken);
            taken.drain(..).for_each(&mut take);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use super::*;
    use crate::counted::Counted;

    #[test]
    fn many_items_are_taken_after_one_wake() {
        let (handover, runner) = (Handover::default(), Arc::new(Counted::default()));
        let taken = AtomicUsize::new(0);
        let runner_waker = runner.clone().into();
        let mut context = Context::from_waker(&runner_waker);
        let mut run = pin!(handover.run(|number| {
            taken.fetch_add(number, Ordering::Relaxed);
        }));
        assert_eq!(run.as_mut().poll(&mut context), Poll::Pending);
        for round in 1..=2 {
            (0..10).for_each(|_| handover.put(1));
            assert_eq!(runner.wakes(), round);
            assert_eq!(run.as_mut().poll(&mut context), Poll::Pending);
            assert_eq!(taken.load(Ordering::Relaxed), 10 * round);
        }
    }
}

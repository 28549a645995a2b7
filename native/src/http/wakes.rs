//! Wakes many tasks of a thread at the cost of one: waking a task from another thread takes a system call.

use std::task::Waker;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The tasks of one connection thread whose answers have arrived.
#[derive(Default)]
pub struct Wakes {
    due: Mutex<Vec<Waker>>,
    ring: Notify,
}

impl Wakes {
    /// Requests that a task be woken soon. Any thread.
    pub fn add(&self, waker: Waker) {
        let mut due = self.due.lock();
        due.push(waker);
        let first = due.len() == 1;
        drop(due);
        if first {
            self.ring.notify_one();
        }
    }

    /// Wakes them, on their own thread. Never ends.
    pub async fn run(&self) {
        let mut woken = Vec::new();
        loop {
            self.ring.notified().await;
            std::mem::swap(&mut *self.due.lock(), &mut woken);
            woken.drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Wake};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn many_tasks_are_woken_by_one_wake() {
        let (wakes, runner, tasks) = (Wakes::default(), Arc::new(Count::default()), Arc::new(Count::default()));
        let runner_waker = runner.clone().into();
        let mut context = Context::from_waker(&runner_waker);
        let mut run = pin!(wakes.run());
        assert_eq!(run.as_mut().poll(&mut context), Poll::Pending);
        for round in 1..=2 {
            (0..10).for_each(|_| wakes.add(tasks.clone().into()));
            assert_eq!(runner.0.load(Ordering::Relaxed), round);
            assert_eq!(run.as_mut().poll(&mut context), Poll::Pending);
            assert_eq!(tasks.0.load(Ordering::Relaxed), 10 * round);
        }
    }
}

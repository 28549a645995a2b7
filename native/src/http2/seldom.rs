//! Polls the rare events of a connection only after one of them has happened.
//!
//! A connection's task runs at least twice per call: once to read the call, and once to write its answer. Each time, it
//! would poll its timers, and check whether the server is stopping. With a thousand connections, the state for that is
//! in no cache, and fetching it from memory takes time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Whether anything may have happened since the last poll.
pub struct Seldom {
    news: Arc<News>,
    waker: Waker,
}

impl Default for Seldom {
    fn default() -> Self {
        Self::of(Waker::noop())
    }
}

impl Seldom {
    /// Makes the next call of `poll` poll.
    pub fn is_due(&self) {
        self.news.come.store(true, Ordering::Relaxed);
    }

    fn of(task: &Waker) -> Self {
        let news = Arc::new(News { come: AtomicBool::new(true), task: task.clone() });
        Self { waker: news.clone().into(), news }
    }

    /// Calls `poll`, unless it has returned `Pending` and its waker has not been woken since.
    pub fn poll<T>(&mut self, context: &Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.news.task.will_wake(context.waker()) {
            *self = Self::of(context.waker());
        }
        if !self.news.come.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        // Cleared before polling, so that nothing that happens during the poll is missed.
        self.news.come.swap(false, Ordering::Acquire);
        let outcome = poll(&mut Context::from_waker(&self.waker));
        if outcome.is_ready() {
            self.news.come.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

struct News {
    come: AtomicBool,
    task: Waker,
}

impl Wake for News {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.come.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counted::Counted;

    #[test]
    fn a_connection_is_polled_again_only_after_a_wake_or_an_end() {
        let (mut seldom, mut polls, mut kept) = (Seldom::default(), 0, None);
        let task = Arc::new(Counted::default());
        let waker = task.clone().into();
        let context = Context::from_waker(&waker);
        let mut poll = |seldom: &mut Seldom, outcome: Poll<()>| {
            let _ = seldom.poll(&context, |inner| {
                polls += 1;
                kept = Some(inner.waker().clone());
                outcome
            });
            (polls, kept.clone().expect("the first call polls"))
        };
        assert_eq!(poll(&mut seldom, Poll::Pending).0, 1);
        let (polls, waker) = poll(&mut seldom, Poll::Pending);
        assert_eq!(polls, 1, "nothing has happened");
        waker.wake();
        assert_eq!(task.wakes(), 1);
        assert_eq!(poll(&mut seldom, Poll::Ready(())).0, 2);
        assert_eq!(poll(&mut seldom, Poll::Pending).0, 3, "after Ready, it polls again");
        assert_eq!(poll(&mut seldom, Poll::Pending).0, 3);
    }

    #[test]
    fn another_task_is_woken_from_its_first_poll_on() {
        let (mut seldom, mut polls) = (Seldom::default(), 0);
        let tasks = [Arc::new(Counted::default()), Arc::new(Counted::default())];
        let mut kept = None;
        for task in &tasks {
            let _ = seldom.poll::<()>(&Context::from_waker(&task.clone().into()), |inner| {
                polls += 1;
                kept = Some(inner.waker().clone());
                Poll::Pending
            });
        }
        kept.expect("both were polled").wake();
        assert_eq!((polls, tasks.each_ref().map(|task| task.wakes())), (2, [0, 1]));
    }
}

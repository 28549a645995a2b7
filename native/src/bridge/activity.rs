//! Tells the server's periodic check whether there may be anything to do, so that an idle server does nothing.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Whether anything has happened since the last check. May be used on any thread.
#[derive(Default)]
pub struct Activity {
    noted: AtomicBool,
    came: Notify,
}

impl Activity {
    /// Records that something has happened: a task waits, or a call must be counted. Costs one
    /// load if that has been recorded already.
    pub fn note(&self) {
        if !self.noted.load(Ordering::Relaxed) && !self.noted.swap(true, Ordering::AcqRel) {
            self.came.notify_one();
        }
    }

    /// Returns whether anything has happened since the last `take`. Must be called before the check, and not after it:
    /// whatever happens during the check then leads to another check.
    pub fn take(&self) -> bool {
        self.noted.swap(false, Ordering::AcqRel)
    }

    /// Returns once something has happened since the last `take`.
    pub async fn comes(&self) {
        while !self.noted.load(Ordering::Acquire) {
            self.came.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::Activity;

    fn has_come(activity: &Activity) -> bool {
        matches!(pin!(activity.comes()).poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(()))
    }

    #[test]
    fn a_wait_ends_at_once_after_activity() {
        let activity = Activity::default();
        activity.note();
        assert!(has_come(&activity));
    }

    #[test]
    fn a_wait_does_not_end_without_activity() {
        let activity = Activity::default();
        activity.note();
        assert!(activity.take());
        assert!(!activity.take());
        assert!(!has_come(&activity));
    }

    #[test]
    fn a_waiting_task_is_woken() {
        let activity = Activity::default();
        let mut comes = pin!(activity.comes());
        let mut context = Context::from_waker(Waker::noop());
        assert!(comes.as_mut().poll(&mut context).is_pending());
        activity.note();
        assert!(comes.as_mut().poll(&mut context).is_ready());
    }
}

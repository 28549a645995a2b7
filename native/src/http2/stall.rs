//! Ends a connection whose client stops in the middle of a message, or stops reading its answers.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use super::seldom::Seldom;

/// How long the reads, or the writes, of a connection have been waiting for its client.
pub struct Stall {
    limit: Option<Duration>,
    since: Option<Instant>,
    timer: Timer,
}

impl Stall {
    /// A `limit` of None means no limit.
    pub fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, timer: Timer::default() }
    }

    /// Returns the result of a read or a write, or an error if it has waited too long. A wait counts only if it is
    /// `midway`: in the middle of something that the client must send or read.
    pub fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        midway: bool,
        done: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.limit {
            Some(limit) if midway && done.is_pending() => {
                let until = *self.since.get_or_insert_with(Instant::now) + limit;
                self.timer.poll(context, until).map(|()| Err(ErrorKind::TimedOut.into()))
            }
            _ => {
                self.since = None;
                done
            }
        }
    }
}

/// A timer for a wait, whose end may move to a later time with each poll.
///
/// The sleep is kept from one wait to the next, and reset only when it fires: most waits are short, and resetting a
/// sleep for each costs more than one check.
#[derive(Default)]
pub struct Timer(Option<(Pin<Box<Sleep>>, Seldom)>);

impl Timer {
    /// Ready once `until` has passed. `until` must be no earlier than in the previous call, since the sleep is never
    /// shortened.
    pub fn poll(&mut self, context: &mut Context<'_>, until: Instant) -> Poll<()> {
        let (sleep, fires) = self.0.get_or_insert_with(|| (Box::pin(sleep_until(until.into())), Seldom::default()));
        fires.poll(context, |context| {
            while sleep.as_mut().poll(context).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(());
                }
                sleep.as_mut().reset(until.into());
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use tokio::task::coop::consume_budget;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    fn waits(stall: &mut Stall, context: &mut Context<'_>, midway: bool) -> Poll<io::Result<()>> {
        stall.timed(context, midway, Poll::Pending)
    }

    #[tokio::test]
    async fn only_a_wait_within_a_request_has_a_limit() {
        let mut stall = Stall::new(Some(LIMIT));
        let rests = poll_fn(|context| waits(&mut stall, context, false));
        assert!(tokio::time::timeout(3 * LIMIT, rests).await.is_err());
        let ended = poll_fn(|context| waits(&mut stall, context, true)).await;
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    /// When a task has used up tokio's budget, all of tokio's resources are pending until the task is polled again.
    #[tokio::test]
    async fn a_wait_ends_even_if_the_task_had_used_up_its_budget_when_it_began() {
        let (mut timer, until, mut has_begun) = (Timer::default(), Instant::now() + LIMIT, false);
        let waiting = poll_fn(|context| {
            while !has_begun && pin!(consume_budget()).poll(context).is_ready() {}
            has_begun = true;
            timer.poll(context, until)
        });
        tokio::time::timeout(100 * LIMIT, waiting).await.unwrap();
    }

    #[tokio::test]
    async fn the_time_begins_again_with_each_byte() {
        let mut stall = Stall::new(Some(LIMIT));
        let began = Instant::now();
        poll_fn(|context| {
            assert!(waits(&mut stall, context, true).is_pending());
            Poll::Ready(())
        })
        .await;
        tokio::time::sleep(LIMIT / 2).await;
        poll_fn(|context| stall.timed(context, true, Poll::Ready(Ok(())))).await.unwrap();
        poll_fn(|context| waits(&mut stall, context, true)).await.unwrap_err();
        assert!(began.elapsed() >= LIMIT + LIMIT / 2);
    }

    #[tokio::test]
    async fn without_a_limit_a_wait_never_ends() {
        let mut stall = Stall::new(None);
        let waiting = poll_fn(|context| waits(&mut stall, context, true));
        assert!(tokio::time::timeout(LIMIT, waiting).await.is_err());
    }
}

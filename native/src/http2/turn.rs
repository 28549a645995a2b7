//! Lets a thread's other connections run while the client of one connection sends without a pause.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop::has_budget_remaining;
use tokio::task::yield_now;

use super::seldom::Seldom;

/// The function that a thread runs before one of its connections goes on reading after a pause.
pub type AfterPause = Arc<dyn Fn() + Send + Sync>;

/// Counts the bytes that a connection has read since it last had to wait. After `MOST` of them, its turn ends, and it
/// pauses.
pub struct Turn<const MOST: usize> {
    read: usize,
    /// The pause that has begun and has not ended.
    pause: Option<Seldom>,
    after_pause: AfterPause,
}

impl<const MOST: usize> Turn<MOST> {
    /// `after_pause` is called after each pause, when what had arrived on the other connections has been read. While
    /// one connection reads, the thread does not park. So the thread handles what the other connections have sent in
    /// this function.
    pub fn new(after_pause: AfterPause) -> Self {
        Self { read: 0, pause: None, after_pause }
    }

    /// Returns the number of bytes that are left of the turn, at least one. At the end of the turn, it returns
    /// `Pending` until the other connections have had their turns, however often it is polled; then the next turn
    /// begins.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        if self.read < MOST {
            return Poll::Ready(MOST - self.read);
        }
        let begins = self.pause.is_none();
        // The task is woken after tokio has checked the other connections' sockets. If it were woken at once, tokio
        // would first poll it dozens of times more.
        let pause = |context: &mut Context<'_>| {
            if begins { pin!(yield_now()).poll(context) } else { Poll::Ready(()) }
        };
        ready!(self.pause.get_or_insert_default().poll(context, pause));
        (self.read, self.pause) = (0, None);
        (self.after_pause)();
        Poll::Ready(MOST)
    }

    /// Counts the bytes of a read. A read that has to wait for a slow client ends the turn without a pause. If it waits
    /// because the task has used up tokio's budget, the thread does not park, and so the pause is due.
    pub fn count<T>(&mut self, read: &Poll<T>, bytes: usize) {
        self.read = match read {
            Poll::Ready(_) => self.read + bytes,
            Poll::Pending if has_budget_remaining() => 0,
            Poll::Pending => MOST,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::task::coop::consume_budget;

    use super::*;

    /// A turn of three bytes, and a function that returns how many of its pauses have ended.
    fn turn() -> (Turn<3>, impl Fn() -> usize) {
        let pauses = Arc::new(AtomicUsize::new(0));
        let counted = pauses.clone();
        let count = move || {
            counted.fetch_add(1, Ordering::Relaxed);
        };
        let turn = Turn::new(Arc::new(count));
        (turn, move || pauses.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn data_of_other_connections_are_read_before_the_next_turn() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(b"a").await.unwrap();
        let other = tokio::spawn(async move { server.read_u8().await.unwrap() });
        let reading = tokio::spawn(async move {
            let (mut turn, _) = turn();
            turn.count(&Poll::Ready(()), 5);
            (poll_fn(|context| turn.poll(context)).await, other.is_finished())
        });
        assert_eq!(reading.await.unwrap(), (3, true));
    }

    #[tokio::test]
    async fn data_of_other_connections_are_handled_after_each_pause() {
        let (mut turn, pauses) = turn();
        for pause in 1..4 {
            turn.count(&Poll::Ready(()), 3);
            let waits = poll_fn(|context| Poll::Ready(turn.poll(context).is_pending())).await;
            assert_eq!((waits, pauses()), (true, pause - 1), "too early: others have not been read");
            assert_eq!((poll_fn(|context| turn.poll(context)).await, pauses()), (3, pause));
            assert_eq!((poll_fn(|context| turn.poll(context)).await, pauses()), (3, pause), "once per pause");
        }
    }

    #[tokio::test]
    async fn a_turn_begins_only_after_the_pause_however_often_it_is_polled() {
        let (mut turn, pauses) = turn();
        turn.count(&Poll::Ready(()), 3);
        let at_once = poll_fn(|context| Poll::Ready([turn.poll(context), turn.poll(context)]));
        assert_eq!((at_once.await, pauses()), ([Poll::Pending; 2], 0), "a connection polls again after each call");
        assert_eq!((poll_fn(|context| turn.poll(context)).await, pauses()), (3, 1));
    }

    /// Over TLS, 4 KB are read at once, so that the budget lasts for less than a turn. The thread does not park in that
    /// case.
    #[tokio::test]
    async fn a_turn_ends_when_the_task_has_used_up_its_budget() {
        let (mut turn, pauses) = turn();
        let reading = poll_fn(|context| {
            while pin!(consume_budget()).poll(context).is_ready() {}
            turn.count(&Poll::<()>::Pending, 0);
            Poll::Ready(turn.poll(context))
        });
        assert_eq!((reading.await, pauses()), (Poll::Pending, 0));
        assert_eq!((poll_fn(|context| turn.poll(context)).await, pauses()), (3, 1));
    }

    #[tokio::test]
    async fn a_read_that_waits_ends_a_turn() {
        let (mut turn, pauses) = turn();
        for (read, left) in [(Poll::Ready(2), 1), (Poll::Pending, 3), (Poll::Ready(1), 2)] {
            let bytes = if let Poll::Ready(bytes) = read { bytes } else { 0 };
            turn.count(&read, bytes);
            assert_eq!(poll_fn(|context| Poll::Ready(turn.poll(context))).await, Poll::Ready(left));
        }
        assert_eq!(pauses(), 0, "the thread parks when no socket is ready");
    }
}

//! Lets the other connections of a thread run while one of them sends without a pause.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::task::yield_now;

/// The bytes that a connection has read since it last had to wait. After `MOST` of them, its turn ends, and it pauses.
#[derive(Default)]
pub struct Turn<const MOST: usize> {
    read: usize,
}

impl<const MOST: usize> Turn<MOST> {
    /// The bytes that are left of the turn, at least one. At the end of the turn, it is pending once; then the next
    /// turn begins.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        if self.read < MOST {
            return Poll::Ready(MOST - self.read);
        }
        self.read = 0;
        // The task is woken after tokio has checked the other connections' sockets. If it were woken at once, tokio
        // would first poll it dozens of times more.
        pin!(yield_now()).poll(context).map(|()| MOST)
    }

    /// Counts the bytes of a read. A read that has to wait starts a new turn.
    pub fn count<T>(&mut self, read: &Poll<T>, bytes: usize) {
        self.read = if read.is_ready() { self.read + bytes } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn what_others_have_received_is_read_before_the_next_turn() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(b"a").await.unwrap();
        let other = tokio::spawn(async move { server.read_u8().await.unwrap() });
        let reading = tokio::spawn(async move {
            let mut turn = Turn::<3>::default();
            turn.count(&Poll::Ready(()), 5);
            (poll_fn(|context| turn.poll(context)).await, other.is_finished())
        });
        assert_eq!(reading.await.unwrap(), (3, true));
    }

    #[tokio::test]
    async fn a_read_that_waits_ends_a_turn() {
        let mut turn = Turn::<3>::default();
        for (read, left) in [(Poll::Ready(2), 1), (Poll::Pending, 3), (Poll::Ready(1), 2)] {
            let bytes = if let Poll::Ready(bytes) = read { bytes } else { 0 };
            turn.count(&read, bytes);
            assert_eq!(poll_fn(|context| Poll::Ready(turn.poll(context))).await, Poll::Ready(left));
        }
    }
}

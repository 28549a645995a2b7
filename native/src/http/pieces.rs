//! A body that comes in pieces: from Python to the connection, one at a time.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use super::exchange::Waiting;
use crate::calls::Kind;

/// The pieces of a body. Dropped before its end, it says that nobody waits for them.
pub struct Pieces {
    coming: UnboundedReceiver<Bytes>,
    waiting: Waiting,
}

impl Pieces {
    pub fn new(coming: UnboundedReceiver<Bytes>, waiting: Waiting) -> Self {
        Self { coming, waiting }
    }

    /// The next piece, of which Python is told that it has left; None at the end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let piece = self.coming.poll_recv(context);
        match &piece {
            Poll::Ready(Some(_)) => self.waiting.tell(Kind::Sent),
            Poll::Ready(None) => self.waiting.over(),
            Poll::Pending => {}
        }
        piece
    }
}

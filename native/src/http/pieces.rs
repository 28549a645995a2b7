//! A body that comes in pieces: from Python to the connection, one at a time.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

/// Who waits for the pieces. Dropped before `over`, it says that nobody does any more.
pub trait Waits: Send {
    /// Tells Python that a piece has left.
    fn piece_sent(&self);

    /// Has got all of them.
    fn over(&mut self);
}

/// The pieces of a body. Dropped before its end, it says that nobody waits for them.
pub struct Pieces {
    coming: UnboundedReceiver<Bytes>,
    waiting: Box<dyn Waits>,
}

impl Pieces {
    pub fn new(coming: UnboundedReceiver<Bytes>, waiting: Box<dyn Waits>) -> Self {
        Self { coming, waiting }
    }

    /// The next piece, of which Python is told that it has left; None at the end.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let piece = self.coming.poll_recv(context);
        match &piece {
            Poll::Ready(Some(_)) => self.waiting.piece_sent(),
            Poll::Ready(None) => self.waiting.over(),
            Poll::Pending => {}
        }
        piece
    }
}

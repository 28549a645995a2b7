//! A body in pieces: from Python to the connection, one at a time.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

/// Tells Python what happens to the pieces. If this is dropped before `over`, Python is notified that the client has
/// gone.
pub trait Waits: Send {
    /// Tells Python that a piece has been sent.
    fn piece_sent(&self);

    /// Tells Python that the client has received all pieces.
    fn over(&mut self);
}

/// The pieces of a body. If this is dropped before the end, Python is notified that the client has gone.
pub struct Pieces {
    coming: UnboundedReceiver<Bytes>,
    waiting: Box<dyn Waits>,
}

impl Pieces {
    pub fn new(coming: UnboundedReceiver<Bytes>, waiting: Box<dyn Waits>) -> Self {
        Self { coming, waiting }
    }

    /// Takes the next piece, and notifies Python that it has been sent; None at the end.
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

//! The progress of an HTTP/1 connection with a request: shared by the code that reads bytes and the code that handles
//! requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

const RESTS: u8 = 0;
const HEAD_BEGUN: u8 = 1;
const IS_ANSWERED: u8 = 2;

/// The state of a connection. One thread.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Bytes have arrived.
    pub fn came(&self) {
        let _ = self.0.compare_exchange(RESTS, HEAD_BEGUN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A request's head is complete; until the answer's content has been sent, its client need not send anything.
    pub fn is_answered(&self) {
        self.0.store(IS_ANSWERED, Ordering::Relaxed);
    }

    /// The answer is gone.
    pub fn rests(&self) {
        self.0.store(RESTS, Ordering::Relaxed);
    }

    /// Whether its client has begun a head, and owes the rest of it.
    pub fn in_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEAD_BEGUN
    }

    /// The content of the answer to the request.
    pub fn until_gone<B>(self, content: B) -> Watched<B> {
        Watched { content, progress: self }
    }
}

/// An answer's content; the connection is idle again when it has been sent.
pub struct Watched<B> {
    content: B,
    progress: Progress,
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.progress.rests();
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.content).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}

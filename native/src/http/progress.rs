//! How far an HTTP/1 connection is with a request: shared by the code that reads bytes and the code that handles
//! requests.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

const RESTS: u8 = 0;
const HEAD_BEGUN: u8 = 1;
const IS_ANSWERED: u8 = 2;

/// The state of a connection, to be used by one thread.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Records that bytes have arrived.
    pub fn came(&self) {
        let _ = self.0.compare_exchange(RESTS, HEAD_BEGUN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Records that a request's head is complete. The client need not send anything until the
    /// answer has been sent.
    pub fn is_answered(&self) {
        self.0.store(IS_ANSWERED, Ordering::Relaxed);
    }

    /// Records that the answer has been sent.
    pub fn rests(&self) {
        self.0.store(RESTS, Ordering::Relaxed);
    }

    /// Whether the client has sent a part of a head.
    pub fn in_head(&self) -> bool {
        self.0.load(Ordering::Relaxed) == HEAD_BEGUN
    }

    /// Wraps the content of the answer, so that its end is noticed.
    pub fn until_gone<B>(self, content: B) -> Watched<B> {
        Watched { content, progress: self }
    }
}

/// An answer's content. When it has been sent, the connection is idle again.
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

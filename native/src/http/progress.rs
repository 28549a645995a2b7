//! How far a connection of HTTP/1 is with a request: its bytes and its requests tell each other.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

const RESTS: u8 = 0;
const HEAD_BEGUN: u8 = 1;
const IS_ANSWERED: u8 = 2;

/// Where a connection is. One thread.
#[derive(Clone, Default)]
pub struct Progress(Arc<AtomicU8>);

impl Progress {
    /// Bytes have come.
    pub fn came(&self) {
        let _ = self.0.compare_exchange(RESTS, HEAD_BEGUN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// A request's head is whole; from now until the answer's content is gone, its client may send nothing.
    pub fn is_answered(&self) {
        self.0.store(IS_ANSWERED, Ordering::Relaxed);
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

/// An answer's content; the connection rests when it is gone.
pub struct Watched<B> {
    content: B,
    progress: Progress,
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.progress.0.store(RESTS, Ordering::Relaxed);
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

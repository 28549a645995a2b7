//! The plain requests of an HTTP/1.1 connection, which are read and answered without hyper: calls with small bodies and
//! without unusual headers.
//!
//! The benefit: a :predict of one row takes a third fewer instructions. The first request that is not plain goes to
//! hyper, and so does everything that follows on the connection.

mod head;
mod request;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};

pub use self::head::begin_head;
use self::head::end_head;
use self::request::MAX_HEAD;
pub use self::request::{Next, Requests};
use super::answer::{Answer, Answered, Content};
use super::answers::{Answers, PlainCall};
use super::intake::STALLED;
use super::progress::Progress;
use super::stalling::Stalling;
use crate::http2::{Seldom, Stream, Timer};

/// The connection of a client that speaks HTTP/1.1.
pub struct Plain {
    stream: Stalling<Stream>,
    progress: Progress,
    /// The first `filled` bytes have been read, and belong to requests that have not been answered.
    buffer: Vec<u8>,
    filled: usize,
    requests: Requests,
    idle: Timer,
    stalled: Timer,
    late: Timer,
    keep_alive: Duration,
    since: Instant,
    /// Polls whether the server is stopping.
    stop: Seldom,
    out: Vec<u8>,
}

impl Plain {
    /// A connection of which nothing has been read, and which may be idle for `keep_alive`.
    pub fn new(stream: Stalling<Stream>, progress: Progress, keep_alive: Duration) -> Self {
        Self {
            stream,
            progress,
            buffer: vec![0; MAX_HEAD],
            filled: 0,
            requests: Requests::default(),
            idle: Timer::default(),
            stalled: Timer::default(),
            late: Timer::default(),
            keep_alive,
            since: Instant::now(),
            stop: Seldom::default(),
            out: Vec::new(),
        }
    }

    /// Answers plain requests. Ends with the bytes of a request that is not plain, or with None if the connection has
    /// ended.
    pub async fn serve(
        mut self,
        answers: &impl Answers,
        mut stopping: Pin<&mut impl Future>,
    ) -> Option<(Vec<u8>, Stalling<Stream>)> {
        loop {
            let (call, size) = match self.requests.next(&self.buffer[..self.filled]) {
                Next::Request(request, size) => (answers.call(request), size),
                Next::Partial(size) => {
                    self.make_room(size);
                    if !self.more(answers, stopping.as_mut()).await {
                        return None;
                    }
                    continue;
                }
                Next::Unusual => (None, 0),
            };
            let Some(call) = call else {
                self.buffer.truncate(self.filled);
                return Some((self.buffer, self.stream));
            };
            self.progress.is_answered();
            self.drop_request(size);
            let answered = self.answered(call).await?;
            let last = answers.is_stopping();
            self.send(answered, answers.head(), last).await.ok()?;
            if last {
                let _ = self.stream.shutdown().await; // the client may have gone
                return None;
            }
            self.rest();
        }
    }

    /// Waits for more bytes, but not beyond the time limit for a whole request. Returns false if the client has gone or
    /// the time is over. Also returns false if the server stops, once no request has begun or nothing more of one has
    /// come for a while.
    async fn more(&mut self, answers: &impl Answers, mut stopping: Pin<&mut impl Future>) -> bool {
        let mut next = Instant::now() + STALLED;
        poll_fn(|context| {
            if let Poll::Ready(read) = self.poll_read(context) {
                return Poll::Ready(read);
            }
            if self.filled == 0 {
                if self.stop.poll(context, |context| stopping.as_mut().poll(context)).is_ready() {
                    return Poll::Ready(false);
                }
            } else {
                while self.stalled.poll(context, next).is_ready() {
                    if answers.is_stopping() {
                        return Poll::Ready(false);
                    }
                    next += STALLED;
                }
            }
            self.idle.poll(context, self.since + self.keep_alive).map(|()| false)
        })
        .await
    }

    /// Waits for the answer; None if the client has gone before that.
    async fn answered(&mut self, mut call: impl PlainCall) -> Option<Answered> {
        let deadline = call.deadline();
        poll_fn(|context| {
            if let Poll::Ready(answered) = call.poll(context) {
                return Poll::Ready(Some(answered));
            }
            while self.filled < self.buffer.len() {
                match self.poll_read(context) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            match deadline.map(|deadline| self.late.poll(context, deadline)) {
                Some(Poll::Ready(())) => call.expire().map_or(Poll::Pending, |late| Poll::Ready(Some(late))),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// Whether bytes have come; false if the connection has ended.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut into = ReadBuf::new(&mut self.buffer[self.filled..]);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut into);
        let count = into.filled().len();
        self.filled += count;
        read.map(|read| read.is_ok() && count > 0)
    }

    /// Makes room for a request of this many bytes.
    fn make_room(&mut self, size: usize) {
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }

    /// Removes a request of this size from the buffer, and keeps what follows it.
    fn drop_request(&mut self, size: usize) {
        self.buffer.copy_within(size..self.filled, 0);
        self.filled -= size;
        if self.buffer.len() > MAX_HEAD && self.filled <= MAX_HEAD {
            self.buffer.truncate(MAX_HEAD);
            self.buffer.shrink_to_fit();
        }
    }

    /// Starts the time limit for the next request. Must be called when a request has been answered.
    fn rest(&mut self) {
        self.since = Instant::now();
        self.progress.rests();
        if self.filled > 0 {
            self.progress.came();
        }
    }

    /// Sends an answer; `head` is the beginning of a successful one.
    async fn send(&mut self, answered: Answered, head: &[u8], last: bool) -> io::Result<()> {
        self.out.clear();
        match answered {
            Answered::Well(body) => {
                self.out.extend_from_slice(head);
                self.send_body(body.as_ref(), last).await
            }
            Answered::Otherwise(answer) => {
                let (head, content) = Answer::into_parts(*answer);
                begin_head(head.status, &head.headers, &mut self.out);
                let Content::Whole(body) = content else { return Err(io::ErrorKind::InvalidData.into()) };
                self.send_body(&body.unwrap_or_default(), last).await
            }
        }
    }

    /// Sends a head that has been begun, and its body.
    async fn send_body(&mut self, body: &[u8], last: bool) -> io::Result<()> {
        end_head(body.len(), last, Instant::now(), &mut self.out);
        if body.len() <= MAX_HEAD {
            self.out.extend_from_slice(body);
            self.stream.write_all(&self.out).await?;
        } else {
            self.stream.write_all(&self.out).await?;
            self.stream.write_all(body).await?;
        }
        // TLS buffers what the socket does not take.
        self.stream.flush().await
    }
}

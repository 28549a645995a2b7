//! Reads from a calm connection in place of h2, and takes the calls whose heads are known.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;

use super::bypass::Bypass;
use super::call::LoneCall;
use super::state::Phase;
use super::wire::{self, LoneFrames};

/// The maximum number of bytes that are read at once. A longer call is not a lone one.
const ROOM: usize = 8 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into_boxed_slice());
}

/// The HEADERS frame of a call that h2 has read, and what it meant.
struct Known<T> {
    head: Vec<u8>,
    /// The number of changes of HPACK's table before that frame.
    heads: u32,
    meaning: T,
}

/// Reads from a calm connection in place of h2. `T` is the form in which the caller stores the meaning of a HEADERS
/// frame.
pub struct Reader<T> {
    bypass: Arc<Bypass>,
    known: Option<Known<T>>,
    /// Whether this reader reads now, or did when it was last polled.
    reads: bool,
}

impl<T> Reader<T> {
    pub fn new(bypass: Arc<Bypass>) -> Self {
        Self { bypass, known: None, reads: false }
    }

    /// Whether there is a call that h2 does not know of.
    pub fn has_call(&self) -> bool {
        self.bypass.is_taken()
    }

    /// Whether `learn` must be called with the meaning of the head of this stream, which h2 has just returned.
    pub fn learns(&self, stream: u32) -> bool {
        self.bypass.state().learns(stream)
    }

    /// Stores the meaning of the head, so that calls with the same head can be taken.
    pub fn learn(&mut self, meaning: T) {
        let mut state = self.bypass.state();
        let heads = state.heads();
        self.known = state.learn().map(|head| Known { head, heads, meaning });
    }

    /// Returns a stream that h2 has opened, unless it belongs to a call that was taken.
    pub fn claim(&self, respond: SendResponse<Bytes>) -> Option<SendResponse<Bytes>> {
        self.bypass.claim(respond)
    }

    /// Takes no more calls, and leaves the connection to h2.
    pub fn drain(&mut self) {
        self.bypass.state().drain();
        if self.reads {
            self.give(&[]);
        }
    }

    /// Must be called when h2, too, has nothing to do until more arrives; `rests` says whether h2 has no streams.
    /// Returns whether this reader has now begun to read in place of h2; if so, the reader must be polled.
    pub fn begin(&mut self, rests: impl FnOnce() -> bool) -> bool {
        let Some(known) = self.known.as_ref().filter(|_| !self.reads) else { return false };
        let may_take = {
            let state = self.bypass.state();
            known.heads == state.heads() && state.may_take()
        };
        self.reads = may_take && rests();
        if self.reads {
            self.bypass.set_direct(false);
        }
        self.reads
    }

    /// Reads the bytes that have arrived, and takes the calls that `take` accepts: `take` gets the meaning of the head,
    /// the call, and the content of the DATA frame. Returns whether h2 must be polled.
    pub fn poll(
        &mut self,
        context: &mut Context<'_>,
        mut take: impl FnMut(&mut T, LoneCall, Bytes) -> Result<(), LoneCall>,
    ) -> bool {
        while self.reads {
            if self.bypass.is_direct() {
                self.reads = false;
                return true;
            }
            match self.bypass.socket.tcp().poll_read_ready(context) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.give(&[]); // h2 finds the same error
                    continue;
                }
            }
            BUFFER.with_borrow_mut(|buffer| match self.read(buffer) {
                Ok(0) => self.give(&[]), // h2 reads the end, too
                Ok(count) => self.handle(context, &buffer[..count], &mut take),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.give(&[]),
            });
        }
        false
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.bypass.socket.tcp().try_read(buffer)?;
        if count > 0 && count < buffer.len() {
            self.bypass.socket.has_read_all();
        }
        Ok(count)
    }

    fn handle(
        &mut self,
        context: &Context<'_>,
        bytes: &[u8],
        take: &mut impl FnMut(&mut T, LoneCall, Bytes) -> Result<(), LoneCall>,
    ) {
        if let Some((known, frames)) = self.known.as_mut().zip(LoneFrames::read(bytes))
            && wire::same_head(&known.head, frames.head())
            && may_open(&self.bypass, context, frames.stream)
        {
            let (stream, data) = (frames.stream, frames.data());
            let call = LoneCall::take(self.bypass.clone(), frames);
            match take(&mut known.meaning, call, data) {
                Ok(()) => return self.bypass.stats.head_read(stream),
                Err(call) => call.untake(),
            }
        }
        self.give(bytes);
    }

    /// Lets h2 read: first the call that it has missed, if there is one, and then these bytes.
    fn give(&mut self, bytes: &[u8]) {
        let mut state = self.bypass.state();
        state.give_call(None);
        if let Some(known) = &self.known {
            state.tell(&known.head);
        }
        state.inbox.extend_from_slice(bytes);
        self.bypass.set_direct(true);
    }
}

/// Whether a call on this stream may be taken now. Also remembers the connection's task.
fn may_open(bypass: &Bypass, context: &Context<'_>, stream: u32) -> bool {
    let mut state = bypass.state();
    if !state.task.as_ref().is_some_and(|task| task.will_wake(context.waker())) {
        state.task = Some(context.waker().clone());
    }
    stream > bypass.stats.last_stream() && state.may_take()
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        let ended = std::mem::replace(&mut self.bypass.state().phase, Phase::Ended);
        drop(ended);
    }
}

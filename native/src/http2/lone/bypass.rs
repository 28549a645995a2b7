//! What a connection's task, its h2 and its taken call share.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncWrite, ReadBuf};

use super::state::{Phase, State, Then};
use super::wire;
use crate::http2::frames::{FrameStats, HEAD, WINDOW_UPDATE};
use crate::http2::socket::SharedTcp;

/// The setting of a client's window for each stream.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The length of a setting in bytes.
const SETTING: usize = 6;

/// What a connection's task, its h2 and its taken call share. Only the connection's thread reads and writes the socket.
pub struct Bypass {
    pub socket: SharedTcp,
    pub stats: Arc<FrameStats>,
    /// Whether h2 reads, from the inbox and then from the socket; otherwise a `Reader` does.
    direct: AtomicBool,
    state: Mutex<State>,
}

/// What h2 has got to read.
pub enum Given {
    /// Bytes that the client has sent.
    Bytes,
    /// A frame that the client has not sent now.
    Frame,
    /// Nothing: a `Reader` reads.
    Nothing,
    /// Nothing: h2 is to read from the socket.
    Socket,
}

impl Bypass {
    pub fn new(socket: SharedTcp, stats: Arc<FrameStats>) -> Arc<Self> {
        Arc::new(Self { socket, stats, direct: AtomicBool::new(true), state: Mutex::default() })
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    pub fn is_direct(&self) -> bool {
        self.direct.load(Ordering::Relaxed)
    }

    pub fn set_direct(&self, direct: bool) {
        self.direct.store(direct, Ordering::Relaxed);
    }

    /// Whether a call is taken, of which h2 does not know.
    pub fn is_taken(&self) -> bool {
        matches!(self.state().phase, Phase::Taken(_))
    }

    /// Lets h2 read, and wakes the connection's task, which polls h2.
    pub fn direct_from(&self, state: MutexGuard<'_, State>) {
        self.set_direct(true);
        let task = state.task.clone();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }

    /// Gives h2 the taken call, whose answer `then` sends.
    pub fn move_call(&self, mut state: MutexGuard<'_, State>, then: Then) {
        match &mut state.phase {
            Phase::Taken(_) => {
                state.give_call(Some(then));
                self.direct_from(state);
            }
            Phase::Moves { then: own, .. } => *own = Some(then),
            Phase::Moved(_) => {
                if let Phase::Moved(respond) = std::mem::replace(&mut state.phase, Phase::Rests) {
                    drop(state);
                    then(respond);
                }
            }
            Phase::Rests | Phase::Ended => {}
        }
    }

    /// Passes a stream that h2 has opened to the taken call, if it is its stream, and drops it if h2 has only been told
    /// of it; otherwise returns it.
    pub fn claim(&self, respond: SendResponse<Bytes>) -> Option<SendResponse<Bytes>> {
        let stream = respond.stream_id().as_u32();
        let mut state = self.state();
        if state.was_missed(stream) {
            return None;
        }
        match &mut state.phase {
            Phase::Moves { stream: own, then } if *own == stream => match then.take() {
                Some(then) => {
                    state.phase = Phase::Rests;
                    drop(state);
                    then(respond);
                }
                None => state.phase = Phase::Moved(respond),
            },
            _ => return Some(respond),
        }
        None
    }

    /// Gives h2 what it is to read; `between` says whether it is between two frames.
    pub fn give(&self, into: &mut ReadBuf<'_>, between: bool) -> Given {
        if !self.is_direct() {
            return Given::Nothing;
        }
        let mut state = self.state();
        if between
            && into.remaining() >= HEAD + size_of::<u32>()
            && let Some(back) = state.windows.given_back()
        {
            let mut frame = Vec::new();
            wire::frame(&mut frame, WINDOW_UPDATE, 0, 0, &back.to_be_bytes());
            into.put_slice(&frame);
            return Given::Frame;
        }
        if state.inbox.is_empty() {
            return Given::Socket;
        }
        let count = state.inbox.len().min(into.remaining());
        into.put_slice(&state.inbox[..count]);
        state.inbox.drain(..count);
        if state.inbox.is_empty() {
            state.inbox = Vec::new(); // an idle connection holds no memory for it
        }
        Given::Bytes
    }

    /// Writes what is left of an answer.
    pub fn poll_unsent(
        &self,
        mut stream: Pin<&mut impl AsyncWrite>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state();
        while let Some(unsent) = &mut state.unsent {
            unsent.at += ready!(stream.as_mut().poll_write(context, &unsent.bytes[unsent.at..]))?;
            if unsent.at == unsent.bytes.len() {
                state.unsent = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl State {
    /// h2 reads a WINDOW_UPDATE of the connection, whose payload this is.
    pub fn window_enlarged(&mut self, payload: &mut [u8]) {
        if let Ok(number) = <[u8; 4]>::try_from(&*payload) {
            let number = u32::from_be_bytes(number);
            let shares = self.shares() && number >> 31 == 0;
            let for_h2 = self.windows.enlarged(number, shares);
            payload.copy_from_slice(&for_h2.to_be_bytes());
        }
    }

    /// h2 reads settings, of which these bytes have arrived; None if some have not.
    pub fn settings(&mut self, payload: Option<&[u8]>) {
        // The next answer of h2 may have to begin with a new size of HPACK's table.
        self.table_changes();
        let Some(payload) = payload else { return self.windows.set_stream(None) };
        for setting in payload.chunks_exact(SETTING) {
            if setting[..2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                let bytes = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                self.windows.set_stream(Some(bytes));
            }
        }
    }
}

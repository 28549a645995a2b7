//! The state that a connection's task, h2, and the call that was taken from h2 share.

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
use crate::http2::frames::{FrameStats, WINDOW_UPDATE};
use crate::http2::socket::SharedTcp;

/// The number of the HTTP/2 setting with a client's window for each stream.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// The length of a setting in bytes.
const SETTING: usize = 6;

/// The state that a connection's task, h2, and the call that was taken from h2 share. Only the connection's thread
/// reads and writes the socket.
pub struct Bypass {
    pub socket: SharedTcp,
    pub stats: Arc<FrameStats>,
    /// Whether h2 reads, from the inbox and then from the socket; otherwise a `Reader` does.
    direct: AtomicBool,
    state: Mutex<State>,
}

/// What `Bypass::give` has given to h2.
pub enum Given {
    /// Bytes that the client has sent.
    Bytes,
    /// A part of a WINDOW_UPDATE that did not come from the client: it gives h2 some of the window that was kept back.
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

    /// Whether a call is taken: it is answered without h2, which does not know of it.
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

    /// Gives h2 the taken call; `then` sends its answer.
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

    /// Passes a stream that h2 has opened to the taken call if it is that call's stream. Drops the stream if its call
    /// bypassed h2, which was only told that the stream exists. Otherwise returns the stream.
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

    /// Writes the next bytes for h2 into its buffer, if there are any; `between` says whether h2 is between two frames.
    pub fn give(&self, into: &mut ReadBuf<'_>, between: bool) -> Given {
        if !self.is_direct() {
            return Given::Nothing;
        }
        let mut state = self.state();
        if between
            && state.update.is_empty()
            && let Some(back) = state.windows.given_back()
        {
            wire::frame(&mut state.update, WINDOW_UPDATE, 0, 0, &back.to_be_bytes());
        }
        if !state.update.is_empty() {
            put(&mut state.update, into);
            return Given::Frame;
        }
        if state.inbox.is_empty() {
            return Given::Socket;
        }
        put(&mut state.inbox, into);
        Given::Bytes
    }

    /// Writes the rest of an answer of which the socket has taken only a part.
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

/// Moves as many bytes as there is room for; an idle connection holds no memory for them.
fn put(from: &mut Vec<u8>, into: &mut ReadBuf<'_>) {
    let count = from.len().min(into.remaining());
    into.put_slice(&from[..count]);
    from.drain(..count);
    if from.is_empty() {
        *from = Vec::new();
    }
}

impl State {
    /// Called when h2 reads a WINDOW_UPDATE of the connection; changes its payload, so that h2 gets only its part.
    pub fn window_enlarged(&mut self, payload: &mut [u8]) {
        if let Ok(number) = <[u8; 4]>::try_from(&*payload) {
            let number = u32::from_be_bytes(number) & (u32::MAX >> 1); // the first bit is reserved
            let for_h2 = self.windows.enlarged(number, self.shares());
            payload.copy_from_slice(&for_h2.to_be_bytes());
        }
    }

    /// Called when h2 reads settings; `payload` is None if they have not arrived completely.
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

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn bypass() -> Arc<Bypass> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        Bypass::new(SharedTcp::new(socket), Arc::default())
    }

    #[tokio::test]
    async fn the_share_is_given_back_however_little_room_h2_has() {
        for room in 1..=13 {
            let bypass = bypass().await;
            bypass.state().windows.enlarged(1 << 20, true);
            assert!(bypass.state().windows.h2_sent(60_000));
            bypass.state().inbox.push(7);
            let (mut all, mut between) = (Vec::new(), true);
            while all.len() < 14 {
                let mut buffer = vec![0; room];
                let mut into = ReadBuf::new(&mut buffer);
                assert!(matches!(bypass.give(&mut into, between), Given::Frame | Given::Bytes));
                all.extend_from_slice(into.filled());
                between = !between; // must make no difference: this frame does not come from the client
            }
            assert_eq!((&all[..9], all[13]), (&b"\0\0\x04\x08\0\0\0\0\0"[..], 7), "{room}");
        }
    }

    #[test]
    fn the_reserved_bit_of_a_window_update_is_ignored() {
        let mut state = State::default();
        let mut payload = ((1 << 31) | (1_u32 << 20)).to_be_bytes();
        state.window_enlarged(&mut payload);
        assert!(state.windows.fit(1000) && u32::from_be_bytes(payload) < 1 << 20);
        assert!(state.windows.h2_sent(60_000), "h2 gets its share back");
    }
}

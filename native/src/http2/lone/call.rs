//! A call that has been taken, until it is answered.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use h2::server::SendResponse;

use super::bypass::Bypass;
use super::state::{Phase, Unsent};
use super::wire::{self, LoneFrames};
use crate::http2::frames::{DATA, END_HEADERS, END_STREAM, HEADERS, WINDOW_UPDATE};

thread_local! {
    /// The frames of one answer. An answer is at most as long as a frame may be.
    static OUT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A call that has been taken. If it is dropped without an answer, its stream is reset.
pub struct LoneCall(Option<Arc<Bypass>>);

impl LoneCall {
    /// Takes a call; the connection must have no other taken call.
    pub fn take(bypass: Arc<Bypass>, frames: LoneFrames) -> Self {
        bypass.state().take(frames);
        Self(Some(bypass))
    }

    /// Gives the call back unanswered: h2 then reads it from its beginning. Nothing may have been done for it yet.
    pub fn untake(mut self) {
        if let Some(bypass) = self.0.take() {
            bypass.state().untake();
        }
    }

    /// Whether the client has cancelled the call, or the connection has ended. May be called on any thread.
    pub fn is_gone(&self, context: &mut Context<'_>) -> bool {
        let Some(bypass) = &self.0 else { return true };
        match &mut bypass.state().phase {
            Phase::Moved(respond) => respond.poll_reset(context).is_ready(),
            Phase::Ended => true,
            _ => false,
        }
    }

    /// Writes a whole answer: the encoded headers, a message, and the encoded trailers. Returns the call if only h2 can
    /// send its answer. Must be called on the connection's thread.
    pub fn answer(mut self, head: &[u8], message: &Bytes, trailers: &[u8]) -> Result<(), Self> {
        let Some(bypass) = self.0.take() else { return Ok(()) };
        let written = write(&bypass, head, message, trailers);
        if written { Ok(()) } else { Err(Self(Some(bypass))) }
    }

    /// Gives h2 the call; `then` is called with the stream that h2 opens for it, unless the connection ends first. May
    /// be called on any thread.
    pub fn through_h2(&mut self, then: impl FnOnce(SendResponse<Bytes>) + Send + 'static) {
        if let Some(bypass) = self.0.take() {
            bypass.move_call(bypass.state(), Box::new(then));
        }
    }
}

impl Drop for LoneCall {
    fn drop(&mut self) {
        if let Some(bypass) = self.0.take() {
            bypass.move_call(bypass.state(), Box::new(drop));
        }
    }
}

/// Writes an answer, if it can be sent now. Returns whether it was written, or its client has gone.
fn write(bypass: &Bypass, head: &[u8], message: &Bytes, trailers: &[u8]) -> bool {
    let mut state = bypass.state();
    let Phase::Taken(frames) = &state.phase else { return matches!(state.phase, Phase::Ended) };
    if state.blocked || !state.windows.fit(message.len()) {
        return false;
    }
    let (stream, received) = (frames.stream, frames.data_len() as u32);
    OUT.with_borrow_mut(|out| {
        out.clear();
        wire::frame(out, HEADERS, END_HEADERS, stream, head);
        wire::frame(out, DATA, 0, stream, message);
        wire::frame(out, HEADERS, END_HEADERS | END_STREAM, stream, trailers);
        if let Some(returned) = state.windows.returned(received) {
            wire::frame(out, WINDOW_UPDATE, 0, 0, &returned.to_be_bytes());
        }
        let count = match bypass.socket.tcp().try_write(out) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => out.len(), // the connection is broken, which the next read will report
        };
        bypass.stats.answer_written();
        state.windows.count(received, message.len() as u32);
        let taken = std::mem::replace(&mut state.phase, Phase::Rests);
        if count < out.len()
            && let Phase::Taken(frames) = taken
        {
            state.unsent = Some(Unsent { bytes: out[count..].to_vec(), at: 0, _answer: message.clone() });
            state.tell(frames.head());
            bypass.direct_from(state);
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;

    use socket2::SockRef;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::http2::SharedTcp;

    const HEAD: &[u8] = b"head";
    const TRAILERS: &[u8] = b"trailers";
    const LENGTH: usize = 16 << 10;

    #[tokio::test]
    async fn the_rest_of_an_answer_is_written_before_h2_writes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpSocket::new_v4().unwrap();
        client.set_recv_buffer_size(2048).unwrap();
        let mut client = client.connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        SockRef::from(&server).set_send_buffer_size(2048).unwrap();
        server.writable().await.unwrap();
        let mut socket = SharedTcp::new(server);
        let bypass = Bypass::new(socket.clone(), Arc::default());
        bypass.state().windows.enlarged(1 << 20, true);
        let mut frames = Vec::new();
        wire::frame(&mut frames, HEADERS, END_HEADERS, 7, b"\x83");
        wire::frame(&mut frames, DATA, END_STREAM, 7, b"data");
        let call = LoneCall::take(bypass.clone(), LoneFrames::read(&frames).unwrap());

        assert!(call.answer(HEAD, &vec![7; LENGTH].into(), TRAILERS).is_ok());
        assert!(bypass.state().unsent.is_some() && bypass.is_direct());
        assert_eq!(bypass.state().inbox[..9], *b"\0\0\x01\x01\x04\0\0\0\x07", "h2 is told of the call");

        let mut expected = Vec::new();
        wire::frame(&mut expected, HEADERS, END_HEADERS, 7, HEAD);
        wire::frame(&mut expected, DATA, 0, 7, &[7; LENGTH]);
        wire::frame(&mut expected, HEADERS, END_HEADERS | END_STREAM, 7, TRAILERS);
        let mut read = vec![0; expected.len()];
        let write = poll_fn(|context| bypass.poll_unsent(Pin::new(&mut socket), context));
        tokio::try_join!(client.read_exact(&mut read), write).unwrap();
        assert!(read == expected && bypass.state().unsent.is_none());
    }
}

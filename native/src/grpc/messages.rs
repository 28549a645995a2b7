//! Reads the messages of one request, as they arrive.

use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::compression::{Encoding, Expansion};
use super::frame::{Expanding, Framed};
use super::status::{INTERNAL, Status};
use crate::memory::{Begun, CallMemory};
use crate::protobuf::Rope;

/// The reason why no message could be read.
#[derive(Debug)]
pub enum ReadError {
    /// The client must get this status.
    Refused(Status),
    /// No status can be sent, since the stream or its connection has ended.
    Gone,
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// The limits of messages: as they are sent, and after decompression.
#[derive(Clone, Copy)]
pub struct MessageLimits {
    pub sent: usize,
    pub expanded: usize,
}

/// A step of a decompression, on another thread: it returns the state, and the message if it is complete.
type Step = JoinHandle<(Expansion, Result<Option<Bytes>, Status>)>;

/// Reads the messages of one request.
pub struct Messages {
    body: RecvStream,
    framed: Framed,
    first: Option<Rope>,
    expanding: Option<Step>,
    memory: Arc<CallMemory>,
    /// Whether the stream must consist of a single message.
    unary: bool,
    begun: Option<Begun>,
}

impl Messages {
    /// `unary` says whether a single message is expected.
    pub fn new(
        body: RecvStream,
        encoding: Encoding,
        limits: MessageLimits,
        memory: Arc<CallMemory>,
        unary: bool,
    ) -> Self {
        let framed = Framed::new(encoding, limits.sent, limits.expanded);
        Self { body, framed, first: None, expanding: None, memory, unary, begun: None }
    }

    /// Records that a message has begun, so that the client must send the rest of it in time.
    pub fn begin(&mut self) {
        self.begun = Some(Begun::new(self.memory.clone()));
    }

    /// Reads the only message of a unary call. Cancel safe: the future may be dropped, and the method called again.
    pub async fn only(&mut self) -> Result<Rope, ReadError> {
        if self.first.is_none() {
            self.first = self.next().await?;
        }
        match self.next().await? {
            None => {
                self.begun = None;
                self.first.take().ok_or_else(|| Status::new(INTERNAL, "a unary call came without a message").into())
            }
            Some(_) => Err(Status::new(INTERNAL, "a unary call came with more than one message").into()),
        }
    }

    /// Reads the next message; None at the end of the stream. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Rope>, ReadError> {
        loop {
            if self.expanding.is_some() {
                match self.expand().await? {
                    Some(message) => return Ok(Some(message)),
                    None => continue,
                }
            }
            match self.framed.received()? {
                Some(message) if message.is_light() => {
                    self.has_come();
                    return Ok(Some(message.expanded()?));
                }
                Some(message) => match message.expansion(self.memory.clone())? {
                    Expanding::Whole(message) => return Ok(Some(message)),
                    Expanding::Steps(expansion) => {
                        self.has_come();
                        self.expanding = Some(step(expansion));
                        continue;
                    }
                },
                None => {}
            }
            match self.body.data().await {
                Some(Ok(data)) => self.receive(data)?,
                Some(Err(_)) => return Err(ReadError::Gone),
                None => return Ok(self.framed.end().map(|()| None)?),
            }
        }
    }

    /// Waits for a step of a decompression, and starts the next; returns the message once it is complete.
    async fn expand(&mut self) -> Result<Option<Rope>, ReadError> {
        let Some(expanding) = &mut self.expanding else { return Ok(None) };
        let stepped = expanding.await;
        self.expanding = None;
        let failed = |_| ReadError::from(Status::new(INTERNAL, "a compressed message could not be expanded"));
        let (expansion, came) = stepped.map_err(failed)?;
        if let Some(message) = came? {
            return Ok(Some(message.into()));
        }
        self.expanding = Some(step(expansion));
        Ok(None)
    }

    /// Records that a message is complete.
    fn has_come(&mut self) {
        if !self.unary {
            self.begun = None;
        }
    }

    fn receive(&mut self, data: Bytes) -> Result<(), Status> {
        if !self.memory.receive(data.len()) {
            return Err(Status::no_memory(self.memory.budget()));
        }
        // Fails only for more bytes than have been received.
        let _ = self.body.flow_control().release_capacity(data.len());
        self.framed.push(data);
        if !self.unary && self.begun.is_none() && !self.framed.is_empty() {
            self.begin();
        }
        Ok(())
    }
}

/// Starts a step of a decompression on a blocking thread, so that a large message does not delay the other calls of this
/// thread.
fn step(mut expansion: Expansion) -> Step {
    spawn_blocking(move || {
        let came = expansion.step();
        (expansion, came)
    })
}

//! Reads the messages of one request, as they come.

use bytes::Bytes;
use h2::RecvStream;
use tokio::task::{JoinHandle, spawn_blocking};

use super::compression::Encoding;
use super::frame::Framed;
use super::status::{INTERNAL, Status};
use crate::protobuf::Rope;

/// Why no message could be read.
#[derive(Debug)]
pub enum ReadError {
    /// The caller is to be told.
    Refused(Status),
    /// There is nobody to tell: the stream or its connection has ended.
    Gone,
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Reads the messages of one request.
pub struct Messages {
    body: RecvStream,
    framed: Framed,
    first: Option<Rope>,
    expanding: Option<JoinHandle<Result<Rope, Status>>>,
}

impl Messages {
    pub fn new(body: RecvStream, encoding: Encoding, limit: usize) -> Self {
        Self { body, framed: Framed::new(encoding, limit), first: None, expanding: None }
    }

    /// The only message of a unary call. May be dropped while it waits, and asked for again.
    pub async fn only(&mut self) -> Result<Rope, ReadError> {
        if self.first.is_none() {
            self.first = self.next().await?;
        }
        match self.next().await? {
            None => {
                self.first.take().ok_or_else(|| Status::new(INTERNAL, "a unary call came without a message").into())
            }
            Some(_) => Err(Status::new(INTERNAL, "a unary call came with more than one message").into()),
        }
    }

    /// The next message; None at the end of the stream. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Option<Rope>, ReadError> {
        loop {
            if let Some(expanding) = &mut self.expanding {
                let expanded = expanding.await;
                self.expanding = None;
                let failed = |_| Err(Status::new(INTERNAL, "a compressed message could not be expanded"));
                return Ok(expanded.unwrap_or_else(failed).map(Some)?);
            }
            match self.framed.received()? {
                Some(message) if message.is_light() => return Ok(Some(message.expanded()?)),
                Some(message) => {
                    // Other calls live on this thread.
                    self.expanding = Some(spawn_blocking(|| message.expanded()));
                    continue;
                }
                None => {}
            }
            match self.body.data().await {
                Some(Ok(data)) => self.receive(data),
                Some(Err(_)) => return Err(ReadError::Gone),
                None => return Ok(self.framed.end().map(|()| None)?),
            }
        }
    }

    fn receive(&mut self, data: Bytes) {
        // Only fails for more than has been received.
        let _ = self.body.flow_control().release_capacity(data.len());
        self.framed.push(data);
    }
}

//! A call that Python answers: its bytes go to the handler, and the handler's commands come back.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::HeaderMap;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::call::{CallState, Command};
use super::inbox::{Event, Inbox, Kind};
use super::opening::{Arrived, Opening, until};
use super::questions::{Asked, Questions};
use super::reply::Reply;
use crate::grpc::{Messages, ReadError, Status};
use crate::memory::{self, CallMemory};
use crate::protobuf::Rope;

/// The number of copies of a message in memory once Python has it.
const COPIES: usize = 2;

/// How a call that Python answers ended.
enum End {
    Finished,
    Gone,
    Late,
    Refused(Status),
}

/// The inbox for Python's calls, and the kept answers.
#[derive(Clone)]
pub struct Handlers {
    pub inbox: Arc<Inbox>,
    pub questions: Arc<Questions>,
}

/// Handles one call, from its first byte to its last.
pub async fn run(
    handlers: Handlers,
    opening: Opening,
    mut messages: Messages,
    respond: SendResponse<Bytes>,
    message: Arrived,
) {
    let (commands, received) = unbounded_channel();
    let mut reply = Reply::new(respond, &opening);
    let Opening { method, streaming, headers, deadline, peer, identity, memory, .. } = opening;
    let state = Arc::new(CallState::new(method, headers, deadline, (peer, identity), commands));
    let mut exchange = Exchange { handlers, state, begun: false, asked: None };
    let end = tokio::select! {
        biased;
        end = exchange.run(&mut messages, &mut reply, received, (message, streaming), &memory) => end,
        () = until(deadline) => End::Late,
    };
    exchange.end(end, &mut reply);
}

struct Exchange {
    handlers: Handlers,
    state: Arc<CallState>,
    begun: bool,
    asked: Option<Asked>,
}

impl Exchange {
    async fn run(
        &mut self,
        messages: &mut Messages,
        reply: &mut Reply,
        received: UnboundedReceiver<Command>,
        (message, streaming): (Arrived, bool),
        memory: &CallMemory,
    ) -> End {
        let message = match (streaming, message) {
            (true, _) => Ok(None),
            (false, Some(message)) => message.map(Some),
            (false, None) => messages.only().await.map(Some),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        // Python has its own copy, and creates a message from it.
        let copied = message.as_ref().map_or(0, |message| COPIES * message.len());
        if !memory.grow(memory::Kind::Received, copied) {
            return End::Refused(Status::no_memory(memory.budget()));
        }
        let bytes = match message.clone().map(Rope::into_bytes).transpose() {
            Ok(bytes) => bytes,
            Err(reason) => return End::Refused(Status::no_room(reason, memory.budget())),
        };
        self.begun = true;
        self.asked = message.as_ref().and_then(|message| self.handlers.questions.ask(self.state.method, message));
        self.tell(Kind::Begin, bytes);
        match self.follow_commands(messages, reply, received, memory).await {
            Ok(end) => end,
            Err(_) => End::Gone,
        }
    }

    /// Executes the handler's commands until it has finished, or its client has gone.
    async fn follow_commands(
        &mut self,
        messages: &mut Messages,
        reply: &mut Reply,
        mut received: UnboundedReceiver<Command>,
        memory: &CallMemory,
    ) -> Result<End, h2::Error> {
        let mut reading = false;
        loop {
            let command = tokio::select! {
                biased;
                command = received.recv() => command,
                message = messages.next(), if reading => {
                    reading = false;
                    match message {
                        Ok(message) => match message.map(Rope::into_bytes).transpose() {
                            Ok(bytes) => self.tell(Kind::Message, bytes),
                            Err(reason) => return Ok(End::Refused(Status::no_room(reason, memory.budget()))),
                        },
                        Err(error) => return Ok(error.into()),
                    }
                    continue;
                }
                () = poll_fn(|context| reply.poll_reset(context)) => return Ok(End::Gone),
            };
            match command {
                Some(Command::Read) => reading = true,
                Some(Command::Head(metadata)) => reply.send_metadata(metadata)?,
                Some(Command::Send(message)) => {
                    if let Some(status) = reply.refuses(&message) {
                        return Ok(End::Refused(status));
                    }
                    reply.send(message)?;
                    reply.flushed().await?;
                    self.tell(Kind::Sent, None);
                }
                Some(Command::Finish { message, status, trailers, keep }) => {
                    let kept = message.clone().zip(keep).zip(self.asked.take());
                    if reply.end(message, &status, trailers)?
                        && let Some(((message, count), asked)) = kept
                    {
                        self.handlers.questions.put(asked, message, count);
                    }
                    return Ok(End::Finished);
                }
                None => return Ok(End::Gone),
            }
        }
    }

    fn tell(&self, kind: Kind, payload: Option<Bytes>) {
        self.handlers.inbox.push(Event::new(kind, Some(&self.state), payload));
    }

    fn end(self, end: End, reply: &mut Reply) {
        let status = match end {
            End::Finished => return,
            End::Gone => None,
            End::Late => Some(Status::deadline_exceeded()),
            End::Refused(status) => Some(status),
        };
        if let Some(status) = status {
            // Fails only if the caller has gone, so that nobody needs an error.
            let _ = reply.finish(None, &status, HeaderMap::new());
        }
        if self.begun {
            self.tell(Kind::Cancelled, None);
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(status) => Self::Refused(status),
            ReadError::Gone => Self::Gone,
        }
    }
}

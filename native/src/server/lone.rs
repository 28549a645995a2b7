//! Begins a lone call, which bypasses h2, from the template of an earlier call with the same headers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;

use super::client::Client;
use crate::calls::{Opening, Outcome, Respond, deadline_after};
use crate::grpc::{self, Encoding, PREFIX};
use crate::http2::LoneCall;
use crate::memory::CallMemory;
use crate::protobuf::Rope;

/// The meaning of the headers that a connection's lone calls have in common.
pub struct Template {
    /// Between two calls, its `memory` is `empty`.
    opening: Opening,
    timeout: Option<Duration>,
    /// The length of the message with its prefix, if the headers declare it.
    length: Option<usize>,
    empty: Arc<CallMemory>,
}

impl Client {
    /// The template of calls with the same headers as this one; None if these calls cannot be plain, or if the headers
    /// of each of them must be read. `encoding` is the encoding of the message.
    pub(super) fn template(
        &self,
        opening: &Opening,
        encoding: Encoding,
        timeout: Option<Duration>,
    ) -> Option<Template> {
        let shared = &self.thread.shared;
        let is_plain = !opening.streaming && encoding == Encoding::Identity && shared.plain.may_take(opening);
        if !is_plain || shared.traces.get().is_some() {
            return None;
        }
        let mut lengths = opening.headers.get_all(CONTENT_LENGTH).iter();
        let length = lengths.next().map(|length| length.to_str().ok()?.parse().ok());
        if length == Some(None) || lengths.next().is_some() {
            return None;
        }
        let empty = Arc::new(CallMemory::new(self.share.clone()));
        let opening = Opening {
            method: opening.method,
            streaming: false,
            headers: opening.headers.clone(),
            deadline: None,
            peer: opening.peer.clone(),
            identity: opening.identity.clone(),
            encoding: opening.encoding,
            max_send: opening.max_send,
            memory: empty.clone(),
            traced: None,
        };
        Some(Template { opening, timeout, length: length.flatten(), empty })
    }

    /// Begins a call from a template; `data` is its message with its prefix. Returns the call if it is not plain after
    /// all, or if it cannot begin now.
    pub fn open_lone(&self, template: &mut Template, call: LoneCall, data: Bytes) -> Result<(), LoneCall> {
        let Some(memory) = self.admits(template, &data) else { return Err(call) };
        template.opening.memory = memory;
        template.opening.deadline = deadline_after(template.timeout);
        let message = Rope::from(data.slice(PREFIX..));
        let shared = &self.thread.shared;
        let outcome = shared.plain.put(&template.opening, message, Respond::Lone(call), &self.thread.outbox);
        template.opening.memory = template.empty.clone();
        match outcome {
            Outcome::Waits { wake } => self.thread.busy_poll.grpc_task_waits(wake),
            Outcome::NoMemory | Outcome::ForPython(_, Respond::Stream(_)) => {}
            Outcome::Refused { signature, why, seconds } => shared.ended.add_refused(&signature, why, seconds),
            Outcome::ForPython(_, Respond::Lone(call)) => return Err(call),
        }
        Ok(())
    }

    /// The memory of a call whose message is whole and not compressed, if calls may begin.
    fn admits(&self, template: &Template, data: &Bytes) -> Option<Arc<CallMemory>> {
        let shared = &self.thread.shared;
        let length = data.len().checked_sub(PREFIX)?;
        if shared.stopping.load(Ordering::Relaxed)
            || shared.traces.get().is_some()
            || self.share.outgoing.is_full()
            || data[..PREFIX] != grpc::prefix_of(false, length)
            || length > shared.limits.max_receive_message
            // h2 resets a stream whose data has another length than the headers declare.
            || template.length.is_some_and(|declared| declared != data.len())
        {
            return None;
        }
        let memory = self.call_memory(&template.opening.headers)?;
        memory.receive(data.len()).then_some(memory)
    }
}

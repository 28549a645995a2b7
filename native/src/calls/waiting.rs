//! A plain call that waits in the queue: its arrays, and the stream on which it is answered.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::outbox::{Outbox, Outgoing};
use super::protocol::{Protocol, Response};
use super::respond::Respond;
use super::understood::Arrays;
use crate::bridge::{self, NativeTask, Signature, catch_panic};
use crate::grpc::{self, CANCELLED, INTERNAL, OK, PREFIX, Status};
use crate::memory::{self, CallMemory, Kind};
use crate::predict::Output;
use crate::protobuf::{Dtype, Rope, Writer};
use crate::security::Admitted;

/// A larger answer has a buffer of its own; otherwise it would keep the bytes of all other answers in memory until it
/// is sent.
const LARGE: usize = 64 * 1024;

/// The answers to calls on the connections of one thread.
pub type CallOutbox = Outbox<Call>;

/// A plain call: its message, its arrays, and the stream on which it is answered.
pub struct Call {
    pub message: Rope,
    pub arrays: Arrays,
    pub protocol: Protocol,
    pub respond: Respond,
    /// The outbox of the connection's thread; None once the call is in the outbox.
    pub outbox: Option<Arc<CallOutbox>>,
    pub memory: Arc<CallMemory>,
    pub admitted: Admitted,
    /// The encoded answer as a frame, or why there is none.
    pub answer: Option<Result<Bytes, Box<Status>>>,
}

impl Call {
    /// The call of a task that was created here.
    pub fn of(task: NativeTask) -> Box<Self> {
        let call: Box<dyn std::any::Any> = task.call;
        call.downcast().expect("every task in Rust has a call of this type")
    }

    /// Writes a response as a frame, unless it is too large.
    fn write(&self, response: &Response<'_>, max_send: usize, out: &mut BytesMut) -> Result<Bytes, Box<Status>> {
        let len = response.encoded_len();
        if let Some(refusal) = Status::too_large_to_send(len, max_send, || response.largest()) {
            return Err(Box::new(refusal));
        }
        if !self.memory.set(Kind::Answers, PREFIX + len) {
            return Err(Box::new(Status::no_memory(self.memory.budget())));
        }
        if len > LARGE {
            let no_room = |reason| Box::new(Status::no_room(reason, self.memory.budget()));
            *out = memory::buffer(PREFIX + len).map_err(no_room)?;
        }
        out.reserve(PREFIX + len);
        let mut writer = Writer::new(out);
        writer.slice(&grpc::prefix_of(false, len));
        response.encode(&mut writer);
        drop(writer);
        Ok(self.memory.count(out.split().freeze()))
    }

    fn send_now(mut self) {
        self.message = Rope::default();
        self.memory.drop_request();
        if let Some(answer) = &self.answer {
            self.admitted.end(answer.as_ref().map_or_else(|refusal| refusal.code, |_| OK));
        }
        match self.answer {
            Some(Ok(frame)) => self.respond.answer(frame),
            Some(Err(refusal)) => self.respond.end(refusal.response()),
            None => {}
        }
    }
}

impl Outgoing for Call {
    /// Sends what `encode` has produced.
    fn send_here(self: Box<Self>) {
        // Fails only if the connection has failed internally, which does not concern the other clients of this thread.
        let _ = catch_panic(|| self.send_now());
    }
}

impl bridge::PendingCall for Call {
    fn inner(&self, input: usize) -> &[usize] {
        self.arrays.inner(input)
    }

    fn copy_to(&self, input: usize, dtype: Dtype, target: &mut [u8]) {
        self.arrays.copy_to(&self.message, input, dtype, target);
    }

    fn strings(&self, input: usize, visit: &mut dyn FnMut(&[u8])) {
        self.arrays.strings(&self.message, input, visit);
    }

    fn client_gone(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // If the connection has failed internally, its client counts as gone.
        let gone = catch_panic(|| self.respond.is_gone(&mut context)).unwrap_or(true);
        if gone {
            self.admitted.end(CANCELLED);
        }
        gone
    }

    fn examples(&self) -> Option<usize> {
        self.protocol.examples()
    }

    fn fits(&self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize) -> bool {
        self.protocol.fits(signature, outputs, &(start..start + rows))
    }

    fn misfit(&self, signature: &Signature, outputs: &Bound<'_, PyDict>, rows: Option<Range<usize>>) -> PyResult<()> {
        self.protocol.misfit(signature, outputs, rows)
    }

    fn encode(&mut self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize, out: &mut BytesMut) {
        if let Some(refusal) = self.arrays.refusal() {
            self.answer = Some(Err(Box::new(refusal)));
            return;
        }
        let written = match self.protocol.response(signature, outputs, start..start + rows) {
            Some(response) => self.write(&response, signature.max_send, out),
            None => Err(Box::new(Status::new(INTERNAL, "the outputs do not fit the answer"))),
        };
        if let Ok(frame) = &written {
            signature.answered_with(frame.len(), rows);
        }
        self.answer = Some(written);
    }

    fn send(mut self: Box<Self>) {
        if let Some(outbox) = self.outbox.take() {
            outbox.put(self);
        }
    }

    fn refuse(&mut self, status: &Status) {
        self.admitted.end(status.code);
        let _ = catch_panic(|| self.respond.end(status.response()));
    }
}

//! A plain call that waits: its arrays, and where its answer is delivered.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use smallvec::SmallVec;

use super::outputs::{Part, Unwritten, is_written, write_error, write_predict};
use super::results::write_results;
use crate::bridge::{PendingCall, Signature};
use crate::calls::InferenceAnswer;
use crate::grpc::{INTERNAL, OK, Status};
use crate::handover::Handover;
use crate::http::{Answer, Answered, Endpoint, Unread, answer};
use crate::memory::{Budget, CallMemory, Growing};
use crate::predict::{Column, Output};
use crate::protobuf::Dtype;

/// The approximate size of an answer without its values.
const ENVELOPE: usize = 64;

/// The place for an answer. The connection creates it and waits for the answer; the task fills it.
pub struct Mailbox {
    state: Mutex<State>,
    connection: Arc<Connection>,
}

/// The objects that are needed to answer the calls of a connection.
pub struct Connection {
    pub endpoint: Arc<Endpoint>,
    /// Wakes tasks on the connection's thread.
    pub wakes: Arc<Handover<Waker>>,
}

#[derive(Default)]
enum State {
    #[default]
    Empty,
    Awaited(Waker),
    /// The answer is being delivered, and the client counts as answered.
    Claimed(Option<Waker>),
    /// The answer, and the gRPC code with which the call ended.
    Full(Answered, u8),
    /// The answer has been taken, or nobody waits for it.
    Closed,
}

impl Mailbox {
    pub fn new(connection: Arc<Connection>) -> Self {
        Self { state: Mutex::default(), connection }
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.connection.endpoint
    }

    /// The answer, and the gRPC code with which the call ended. Ready only once.
    pub fn poll(&self, context: &Context<'_>) -> Poll<(Answered, u8)> {
        let mut state = self.state.lock();
        match std::mem::take(&mut *state) {
            State::Full(answered, code) => {
                *state = State::Closed;
                return Poll::Ready((answered, code));
            }
            State::Claimed(_) => *state = State::Claimed(Some(context.waker().clone())),
            State::Empty | State::Awaited(_) => *state = State::Awaited(context.waker().clone()),
            State::Closed => *state = State::Closed,
        }
        Poll::Pending
    }

    /// Stops waiting; returns false if an answer is already being delivered.
    pub fn close(&self) -> bool {
        let mut state = self.state.lock();
        let waits = matches!(*state, State::Empty | State::Awaited(_));
        if waits {
            *state = State::Closed;
        }
        waits
    }

    pub fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed)
    }

    /// Claims the delivery of the answer. If this returns true, the calling function must deliver it.
    pub fn claim(&self) -> bool {
        let mut state = self.state.lock();
        *state = match std::mem::take(&mut *state) {
            State::Empty => State::Claimed(None),
            State::Awaited(waker) => State::Claimed(Some(waker)),
            other => other,
        };
        matches!(*state, State::Claimed(_))
    }

    /// Delivers an error if nothing has been delivered yet, because no answer will come.
    pub fn abandon(&self) {
        if !matches!(*self.state.lock(), State::Full(..) | State::Closed) {
            self.put(answer(StatusCode::INTERNAL_SERVER_ERROR, HeaderMap::new(), Bytes::new()).into(), INTERNAL);
        }
    }

    /// Delivers an answer; `code` is the gRPC code with which the call ended.
    pub fn put(&self, answered: Answered, code: u8) {
        let mut state = self.state.lock();
        let before = match *state {
            State::Closed => return,
            _ => std::mem::replace(&mut *state, State::Full(answered, code)),
        };
        drop(state);
        if let State::Awaited(waker) | State::Claimed(Some(waker)) = before {
            self.connection.wakes.put(waker);
        }
    }
}

/// How a call is answered.
pub enum Reply {
    /// A :predict gets outputs, row by row or each as a whole.
    Outputs { by_row: bool },
    /// A :classify or a :regress gets the result of one inference.
    Results(InferenceAnswer),
}

/// A plain call.
pub struct Call {
    pub columns: Vec<Column>,
    pub reply: Reply,
    pub mailbox: Arc<Mailbox>,
    pub memory: Arc<CallMemory>,
    /// The answer's body, or the error, once it is encoded.
    pub encoded: Option<Result<Unread<BytesMut>, Status>>,
}

impl Drop for Call {
    fn drop(&mut self) {
        self.mailbox.abandon();
    }
}

/// The answer to a failed call.
pub fn refusal(endpoint: &Endpoint, status: &Status) -> Answer {
    let mut body = BytesMut::new();
    write_error(&status.text, &mut body);
    answer(endpoint.status(status), endpoint.headers.clone(), body.freeze())
}

/// The status of a call whose outputs cannot be written.
fn unwritten_status(endpoint: &Endpoint, budget: &Budget, why: &Unwritten<'_>) -> Status {
    let (template, values) = match why {
        Unwritten::NoMemory(reason) => return Status::no_room(*reason, budget),
        Unwritten::Scalar(alias) => (&endpoint.scalar, vec![(*alias).to_owned()]),
        Unwritten::OtherRows { alias, rows, expected } => {
            (&endpoint.other_rows, vec![(*alias).to_owned(), rows.to_string(), expected.to_string()])
        }
    };
    let text = values.iter().fold(template.1.clone(), |text, value| text.replacen("{}", value, 1));
    Status::new(template.0, text)
}

impl Call {
    /// The body of the answer.
    fn write(&self, signature: &Signature, outputs: &[Output<'_>], rows: Range<usize>) -> Result<BytesMut, Status> {
        match &self.reply {
            Reply::Outputs { by_row } => self.write_outputs(outputs, &rows, *by_row),
            Reply::Results(answer) => {
                let taken = || Status::new(INTERNAL, "the outputs do not fit the answer");
                let mut out = Growing::new(0, &self.memory);
                let result = answer.result(signature, outputs, &rows).ok_or_else(taken)?;
                let written = write_results(result, &mut out);
                written.map(|()| out.into_bytes()).map_err(|reason| Status::no_room(reason, self.memory.budget()))
            }
        }
    }

    fn write_outputs(&self, outputs: &[Output<'_>], rows: &Range<usize>, by_row: bool) -> Result<BytesMut, Status> {
        if let Some(output) = outputs.iter().find(|output| !is_written(output.dtype)) {
            let text = format!("output {} has a dtype that its signature does not declare", output.alias);
            return Err(Status::new(INTERNAL, text));
        }
        let parts: SmallVec<[_; 2]> = outputs.iter().map(|output| Part::of(output, rows)).collect();
        let mut out = Growing::new(ENVELOPE + parts.iter().map(Part::about).sum::<usize>(), &self.memory);
        let written = write_predict(&parts, by_row, &mut out);
        let status = |why| unwritten_status(self.mailbox.endpoint(), self.memory.budget(), &why);
        written.map(|()| out.into_bytes()).map_err(status)
    }
}

impl PendingCall for Call {
    fn inner(&self, input: usize) -> &[usize] {
        &self.columns[input].inner
    }

    fn copy_to(&self, input: usize, _: Dtype, target: &mut [u8]) {
        target.copy_from_slice(&self.columns[input].bytes);
    }

    fn strings(&self, input: usize, visit: &mut dyn FnMut(&[u8])) {
        self.columns[input].strings(visit);
    }

    fn client_gone(&mut self) -> bool {
        self.mailbox.is_closed()
    }

    fn claim(&mut self) -> bool {
        self.mailbox.claim()
    }

    fn examples(&self) -> Option<usize> {
        match &self.reply {
            Reply::Outputs { .. } => None,
            Reply::Results(answer) => Some(answer.rows),
        }
    }

    fn fits(&self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize) -> bool {
        match &self.reply {
            Reply::Outputs { .. } => true,
            Reply::Results(answer) => answer.result(signature, outputs, &(start..start + rows)).is_some(),
        }
    }

    fn misfit(&self, signature: &Signature, outputs: &Bound<'_, PyDict>, rows: Option<Range<usize>>) -> PyResult<()> {
        match &self.reply {
            Reply::Outputs { .. } => Ok(()),
            Reply::Results(answer) => answer.misfit(signature, outputs, rows.as_ref()),
        }
    }

    fn encode(&mut self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize, _: &mut BytesMut) {
        self.memory.drop_request();
        let written = self.write(signature, outputs, start..start + rows);
        self.encoded = Some(written.and_then(|body| {
            signature.answered_with(body.len(), rows);
            Unread::hold(body, self.memory.clone()).map_err(|reason| Status::no_room(reason, self.memory.budget()))
        }));
    }

    fn send(mut self: Box<Self>) {
        match self.encoded.take() {
            Some(Ok(body)) => self.mailbox.put(Answered::Well(body), OK),
            Some(Err(status)) => self.refuse(&status),
            None => {}
        }
    }

    fn refuse(&mut self, status: &Status) {
        self.mailbox.put(refusal(self.mailbox.endpoint(), status).into(), status.code);
    }
}

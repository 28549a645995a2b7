//! The plain Predict as a call: decoded here, put into its queue, and answered without a handler in Python.
//!
//! Whether a call is plain is decided here and nowhere else on this side: a Predict whose answer is not compressed
//! (`PlainPredicts::may_take`), and whose message holds what `predict::Request` and a published route understand
//! (`PlainPredicts::put`). Whatever is not, good or bad, is for Python to judge.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::opening::Opening;
use crate::bridge::{self, NativeTask, Route, Routes, Signature, Task, catch_panic};
use crate::grpc::{self, Encoding, PREFIX, Status};
use crate::http2::Outgoing;
use crate::predict::{Output, Request, Response, Tensor, tensors};
use crate::protobuf::{Dtype, Rope};
use crate::queue::{Entry, Refusal};

/// An answer larger than this has a buffer of its own: it would keep the bytes of all others alive until it is sent.
const LARGE: usize = 64 * 1024;

/// Takes the plain Predicts of a server.
pub struct PlainPredicts {
    /// The number of the method; None where the server has no Predict.
    method: Option<usize>,
    /// The metadata of a call that lets the others go first.
    low_priority: (HeaderName, HeaderValue),
    routes: Py<Routes>,
}

/// What Python says of plain Predicts: the method's full path, and the name and value of the metadata by which a call lets
/// the others go first.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PlainFields {
    method: String,
    low_priority: (String, String),
}

/// What has become of a Predict.
pub enum Outcome {
    /// It waits in its queue; whether a thread is to be woken for it.
    Waits { wake: bool },
    /// Its queue was full, and its client has been told so, this many seconds after the call came.
    Refused { signature: Arc<Signature>, seconds: f64 },
    /// It is not plain, or its version is being unloaded and there may be another by now.
    ForPython(Rope, SendResponse<Bytes>),
}

impl PlainPredicts {
    /// `number` is that of a method, by its full path.
    pub fn new(fields: PlainFields, routes: Py<Routes>, number: impl Fn(&str) -> Option<usize>) -> PyResult<Self> {
        let (name, value) = fields.low_priority;
        let wrong = |error: http::Error| PyValueError::new_err(error.to_string());
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.into()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.into()))?;
        Ok(Self { method: number(&fields.method), low_priority: (name, value), routes })
    }

    /// Where plain requests go.
    pub fn routes(&self) -> &Routes {
        self.routes.get()
    }

    /// Whether a call may be plain, by what its headers say.
    pub fn may_take(&self, opening: &Opening) -> bool {
        Some(opening.method) == self.method && opening.encoding == Encoding::Identity
    }

    /// Puts a call that may be plain into the queue of its route, if it is.
    pub fn put(&self, opening: &Opening, message: Rope, respond: SendResponse<Bytes>) -> Outcome {
        let Some((Route { signature, lane, .. }, tensors, rows)) = self.read(&message) else {
            return Outcome::ForPython(message, respond);
        };
        let inner = || tensors.iter().map(|tensor| &*tensor.inner);
        let (key, row_bytes) = (signature.key(inner()), signature.row_bytes(inner()));
        let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
        let call = Call { message, tensors, respond, outgoing: opening.outgoing.clone(), answer: None };
        let task = Task::Native(NativeTask::new(signature.clone(), rows, Box::new(call)));
        let entry = Entry::new(task, rows, row_bytes, deadline, self.priority(&opening.headers));
        let (refusal, task) = match lane.put_native(key, entry, Instant::now()) {
            Ok(wake) => return Outcome::Waits { wake },
            Err((refusal, Task::Native(task))) => (refusal, task),
            Err((_, Task::Python(_))) => unreachable!("a task comes back as it was put"),
        };
        let seconds = task.seconds();
        let mut call = Call::of(task);
        match refusal {
            Refusal::Full(full) => {
                bridge::PendingCall::refuse(&mut *call, &signature.full(&lane.reason(&full)));
                Outcome::Refused { signature, seconds }
            }
            Refusal::Closed => Outcome::ForPython(call.message, call.respond),
        }
    }

    /// 1 for a call that lets the others go first.
    fn priority(&self, headers: &HeaderMap) -> usize {
        let (name, low) = &self.low_priority;
        usize::from(headers.get_all(name).iter().any(|value| value == low))
    }

    /// Understands a plain request: where it goes, its tensors, and its rows.
    fn read(&self, message: &Rope) -> Option<(Route, Vec<Tensor>, usize)> {
        let request = Request::read(message.cursor())?;
        let route = self.routes.get().find(&request.spec)?;
        let (tensors, rows) = tensors(&request, &route.signature.inputs, route.signature.max_rows)?;
        Some((route, tensors, rows))
    }
}

/// A plain Predict: where its arrays lie in the received bytes, and the way to its client.
struct Call {
    message: Rope,
    tensors: Vec<Tensor>,
    respond: SendResponse<Bytes>,
    outgoing: Arc<Outgoing>,
    /// The answer as a frame, or why there is none, once it is encoded.
    answer: Option<Result<Bytes, Box<Status>>>,
}

impl Call {
    /// The call that a task was made of here.
    fn of(task: NativeTask) -> Box<Self> {
        let call: Box<dyn std::any::Any> = task.call;
        call.downcast().expect("it was put here")
    }

    fn try_send(mut self) -> Result<(), h2::Error> {
        let frame = match self.answer {
            Some(Ok(frame)) => frame,
            Some(Err(refusal)) => return self.respond.send_response(refusal.response(), true).map(|_| ()),
            None => return Ok(()),
        };
        let mut stream = self.respond.send_response(grpc::response(), false)?;
        stream.send_data(frame, false)?;
        stream.send_trailers(grpc::ok_trailers())
    }
}

impl bridge::PendingCall for Call {
    fn inner(&self, input: usize) -> &[usize] {
        &self.tensors[input].inner
    }

    fn copy_to(&self, input: usize, dtype: Dtype, target: &mut [u8]) {
        self.tensors[input].values.copy_to(&self.message, dtype, target);
    }

    fn client_gone(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // Where a connection has broken down inside, its client is gone.
        catch_panic(|| self.respond.poll_reset(&mut context).is_ready()).unwrap_or(true)
    }

    fn encode(&mut self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize, out: &mut BytesMut) {
        let response = Response::new(&signature.format, outputs, start..start + rows);
        let len = response.encoded_len();
        if let Some(refusal) = Status::too_large_to_send(len, signature.max_send, || response.largest()) {
            self.answer = Some(Err(Box::new(refusal)));
            return;
        }
        if len > LARGE {
            *out = BytesMut::with_capacity(PREFIX + len);
        }
        out.reserve(PREFIX + len);
        grpc::put_prefix(out, false, len);
        response.encode(out);
        self.answer = Some(Ok(self.outgoing.count(out.split().freeze())));
    }

    fn send(self: Box<Self>) {
        // Fails only where the client has gone, or the connection has broken down inside, which concerns none of the
        // others that this thread answers.
        let _ = catch_panic(|| self.try_send());
    }

    fn refuse(&mut self, status: &Status) {
        let _ = catch_panic(|| self.respond.send_response(status.response(), true));
    }
}

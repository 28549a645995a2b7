//! Plain Predicts and ModelInfers as calls: decoded here, put into their queue, and answered without a handler in Python.
//!
//! Whether a call is plain is decided here and nowhere else on this side: one of these methods whose answer is not
//! compressed (`PlainCalls::may_take`), and whose message holds what its codec and a published route understand
//! (`PlainCalls::put`). Whatever is not, good or bad, is for Python to judge.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::opening::Opening;
use crate::bridge::{self, Infer, Lane, NativeTask, Route, Routes, Signature, Task, catch_panic};
use crate::grpc::{self, Encoding, PREFIX, Status};
use crate::http2::Outgoing;
use crate::memory::{CallMemory, Kind};
use crate::open_inference;
use crate::predict::{Output, Request, Response, Tensor, tensors};
use crate::protobuf::{Dtype, Rope};
use crate::queue::{Entry, Refusal};

/// An answer larger than this has a buffer of its own: it would keep the bytes of all others alive until it is sent.
const LARGE: usize = 64 * 1024;

/// Takes the plain calls of a server.
pub struct PlainCalls {
    /// The number of each method; None where the server does not have it.
    predict: Option<usize>,
    infer: Option<usize>,
    /// The metadata of a call that lets the others go first.
    low_priority: (HeaderName, HeaderValue),
    routes: Py<Routes>,
}

/// What Python says of plain calls: the methods' full paths, and the name and value of the metadata by which a call lets
/// the others go first.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PlainFields {
    predict: String,
    infer: String,
    low_priority: (String, String),
}

/// What has become of a call.
pub enum Outcome {
    /// It waits in its queue; whether a thread is to be woken for it.
    Waits { wake: bool },
    /// There is no memory for its answer, and its client has been told so.
    NoMemory,
    /// Its queue was full, and its client has been told so, this many seconds after the call came.
    Refused { signature: Arc<Signature>, seconds: f64 },
    /// It is not plain, or its version is being unloaded and there may be another by now.
    ForPython(Rope, SendResponse<Bytes>),
}

impl PlainCalls {
    /// `number` is that of a method, by its full path.
    pub fn new(fields: PlainFields, routes: Py<Routes>, number: impl Fn(&str) -> Option<usize>) -> PyResult<Self> {
        let (name, value) = fields.low_priority;
        let wrong = |error: http::Error| PyValueError::new_err(error.to_string());
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.into()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.into()))?;
        let (predict, infer) = (number(&fields.predict), number(&fields.infer));
        Ok(Self { predict, infer, low_priority: (name, value), routes })
    }

    /// Where plain requests go.
    pub fn routes(&self) -> &Routes {
        self.routes.get()
    }

    /// Whether a call may be plain, by what its headers say.
    pub fn may_take(&self, opening: &Opening) -> bool {
        let method = Some(opening.method);
        (method == self.predict || method == self.infer) && opening.encoding == Encoding::Identity
    }

    /// Puts a call that may be plain into the queue of its route, if it is.
    pub fn put(&self, opening: &Opening, message: Rope, mut respond: SendResponse<Bytes>) -> Outcome {
        let understood =
            if Some(opening.method) == self.infer { self.read_infer(&message) } else { self.read(&message) };
        let Some(Understood { signature, lane, tensors, rows, protocol }) = understood else {
            return Outcome::ForPython(message, respond);
        };
        if !opening.memory.set(Kind::Answers, signature.expected_answer(rows)) {
            let status = Status::no_memory(opening.memory.share().budget());
            let _ = respond.send_response(status.response(), true); // fails only where the client has gone
            return Outcome::NoMemory;
        }
        let inner = || tensors.iter().map(|tensor| &*tensor.inner);
        let (key, row_bytes) = (signature.key(inner()), signature.row_bytes(inner()));
        let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
        let (outgoing, memory) = (opening.outgoing.clone(), opening.memory.clone());
        let call = Call { message, tensors, protocol, respond, outgoing, memory, answer: None };
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
                let reason = call.protocol.reason_of_full(lane.reason(&full));
                bridge::PendingCall::refuse(&mut *call, &signature.full(&reason));
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

    /// Understands a plain Predict.
    fn read(&self, message: &Rope) -> Option<Understood> {
        let request = Request::read(message.cursor())?;
        let Route { signature, lane, .. } = self.routes.get().find(&request.spec)?;
        let (tensors, rows) = tensors(&request, &signature.inputs, signature.max_rows)?;
        Some(Understood { signature, lane, tensors, rows, protocol: Protocol::Predict })
    }

    /// Understands a plain ModelInfer, which is for the default signature.
    fn read_infer(&self, message: &Rope) -> Option<Understood> {
        let request = open_inference::Request::read(message.cursor())?;
        let route = self.routes.get().named(request.model, request.version, &[])?;
        let infer = route.infer.filter(|infer| request.wants(&infer.outputs))?;
        let signature = infer.signature.clone();
        let (tensors, rows) = open_inference::tensors(&request, &signature.inputs, signature.max_rows)?;
        let protocol = Protocol::Infer { infer, id: Bytes::copy_from_slice(request.id) };
        Some(Understood { signature, lane: route.lane, tensors, rows, protocol })
    }
}

/// A plain request: where it goes, its tensors, its rows, and how it is answered.
struct Understood {
    signature: Arc<Signature>,
    lane: Lane,
    tensors: Vec<Tensor>,
    rows: usize,
    protocol: Protocol,
}

/// How a call is answered.
enum Protocol {
    Predict,
    Infer { infer: Arc<Infer>, id: Bytes },
}

impl Protocol {
    /// What is put into the text of a full queue: its reason, or whose request found it so.
    fn reason_of_full(&self, reason: String) -> String {
        match self {
            Self::Predict => reason,
            Self::Infer { id, .. } if id.is_empty() => "<id_unknown>".to_owned(),
            Self::Infer { id, .. } => String::from_utf8_lossy(id).into_owned(),
        }
    }
}

/// A response that has been measured, and can be written.
trait Measured {
    fn encoded_len(&self) -> usize;

    /// The output that takes most of it, in words.
    fn largest(&self) -> String;

    fn encode(&self, out: &mut BytesMut);
}

impl Measured for Response<'_> {
    fn encoded_len(&self) -> usize {
        self.encoded_len()
    }

    fn largest(&self) -> String {
        self.largest()
    }

    fn encode(&self, out: &mut BytesMut) {
        self.encode(out);
    }
}

impl Measured for open_inference::Response<'_> {
    fn encoded_len(&self) -> usize {
        self.encoded_len()
    }

    fn largest(&self) -> String {
        self.largest()
    }

    fn encode(&self, out: &mut BytesMut) {
        self.encode(out);
    }
}

/// A plain call: where its arrays lie in the received bytes, and the way to its client.
struct Call {
    message: Rope,
    tensors: Vec<Tensor>,
    protocol: Protocol,
    respond: SendResponse<Bytes>,
    outgoing: Arc<Outgoing>,
    memory: Arc<CallMemory>,
    /// The answer as a frame, or why there is none, once it is encoded.
    answer: Option<Result<Bytes, Box<Status>>>,
}

impl Call {
    /// The call that a task was made of here.
    fn of(task: NativeTask) -> Box<Self> {
        let call: Box<dyn std::any::Any> = task.call;
        call.downcast().expect("it was put here")
    }

    /// Writes a response as a frame, unless it is too large.
    fn write(&self, response: &impl Measured, max_send: usize, out: &mut BytesMut) -> Result<Bytes, Box<Status>> {
        let len = response.encoded_len();
        if let Some(refusal) = Status::too_large_to_send(len, max_send, || response.largest()) {
            return Err(Box::new(refusal));
        }
        if !self.memory.set(Kind::Answers, PREFIX + len) {
            return Err(Box::new(Status::no_memory(self.memory.share().budget())));
        }
        if len > LARGE {
            *out = BytesMut::with_capacity(PREFIX + len);
        }
        out.reserve(PREFIX + len);
        grpc::put_prefix(out, false, len);
        response.encode(out);
        Ok(self.outgoing.count(out.split().freeze(), &self.memory))
    }

    fn try_send(mut self) -> Result<(), h2::Error> {
        self.message = Rope::default();
        self.memory.drop_request();
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
        let (range, max_send) = (start..start + rows, signature.max_send);
        let written = match &self.protocol {
            Protocol::Predict => self.write(&Response::new(&signature.format, outputs, range), max_send, out),
            Protocol::Infer { infer, id } => {
                self.write(&open_inference::Response::new(&infer.format, id, outputs, range), max_send, out)
            }
        };
        if let Ok(frame) = &written {
            signature.answered_with(frame.len(), rows);
        }
        self.answer = Some(written);
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

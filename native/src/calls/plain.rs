//! Plain calls: decoded here, added to their queue, and answered without a Python handler.
//!
//! On this side, only this file decides whether a call is plain: it must be one of these methods with an uncompressed
//! answer (`PlainCalls::may_take`), and its message must contain only what its codec and a published route understand
//! (`Understood`). Python handles everything else, valid or not.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::opening::Opening;
use super::outbox::Outbox;
use super::understood::{Arrays, MethodNames, Understood};
use super::waiting::Call;
use crate::bridge::{self, NativeTask, Routes, Signature, Task, Why};
use crate::grpc::{Encoding, RESOURCE_EXHAUSTED, Status};
use crate::memory::Kind;
use crate::open_inference::Regions;
use crate::protobuf::Rope;
use crate::queue::{Entry, Refusal};
use crate::security::{Admission, Admitted, Asked, Verdicts};

/// Handles the plain calls of a server.
pub struct PlainCalls {
    /// The numbers of the methods with plain calls; methods that the server does not have are left out.
    methods: Vec<PlainMethod>,
    names: MethodNames,
    /// The metadata with which a call lets others go first.
    low_priority: (HeaderName, HeaderValue),
    routes: Py<Routes>,
    regions: Py<Regions>,
    /// Who may call; None if anybody may.
    verdicts: Option<Py<Verdicts>>,
}

/// One of the methods.
struct PlainMethod {
    number: usize,
    method: Method,
    /// What the audit log calls it: its path without the first slash.
    name: String,
}

#[derive(Clone, Copy)]
enum Method {
    Predict,
    Infer,
    Classify,
    Regress,
    MultiInference,
}

/// Python's settings for plain calls: the methods' full paths, the method names of signatures, and the name and value
/// of the metadata with which a call lets others go first.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PlainFields {
    predict: String,
    infer: String,
    classify: String,
    regress: String,
    multi_inference: String,
    classify_name: String,
    regress_name: String,
    low_priority: (String, String),
    regions: Py<Regions>,
    verdicts: Option<Py<Verdicts>>,
}

/// What has happened to a call.
pub enum Outcome {
    /// It waits in its queue; whether a thread must be woken for it.
    Waits { wake: bool },
    /// There is no memory for its answer, and its client has been told.
    NoMemory,
    /// It was refused, and its client has been told, this many seconds after the call arrived.
    Refused { signature: Arc<Signature>, why: Why, seconds: f64 },
    /// It is not plain, may share no batch, or its version is being unloaded and may have been replaced.
    ForPython(Rope, SendResponse<Bytes>),
}

impl PlainCalls {
    /// `number` is that of a method, by its full path.
    pub fn new(fields: PlainFields, routes: Py<Routes>, number: impl Fn(&str) -> Option<usize>) -> PyResult<Self> {
        let (name, value) = fields.low_priority;
        let wrong = |error: http::Error| PyValueError::new_err(error.to_string());
        let name = HeaderName::try_from(name).map_err(|error| wrong(error.into()))?;
        let value = HeaderValue::try_from(value).map_err(|error| wrong(error.into()))?;
        let methods = [
            (fields.predict, Method::Predict),
            (fields.infer, Method::Infer),
            (fields.classify, Method::Classify),
            (fields.regress, Method::Regress),
            (fields.multi_inference, Method::MultiInference),
        ];
        Ok(Self {
            methods: methods
                .into_iter()
                .filter_map(|(path, method)| {
                    let name = path.trim_start_matches('/').to_owned();
                    Some(PlainMethod { number: number(&path)?, method, name })
                })
                .collect(),
            names: MethodNames { classify: fields.classify_name, regress: fields.regress_name },
            low_priority: (name, value),
            routes,
            regions: fields.regions,
            verdicts: fields.verdicts,
        })
    }

    /// The routes of plain requests.
    pub fn routes(&self) -> &Routes {
        self.routes.get()
    }

    /// Whether a call may be plain, judging by its headers.
    pub fn may_take(&self, opening: &Opening) -> bool {
        self.method(opening).is_some() && opening.encoding == Encoding::Identity
    }

    fn method(&self, opening: &Opening) -> Option<&PlainMethod> {
        self.methods.iter().find(|method| method.number == opening.method)
    }

    /// Adds a call to the queue of its route, if it is plain.
    pub fn put(
        &self,
        opening: &Opening,
        message: Rope,
        mut respond: SendResponse<Bytes>,
        outbox: &Arc<Outbox>,
    ) -> Outcome {
        let Some(method) = self.method(opening) else { return Outcome::ForPython(message, respond) };
        let Some(understood) = self.understand(method.method, &message) else {
            return Outcome::ForPython(message, respond);
        };
        let Understood { signature, lane, arrays, rows, choice, protocol } = understood;
        let shapes = || arrays.shapes(signature.inputs.len());
        let dtype = |input: usize| signature.inputs[input].dtype;
        let copy = |input: usize, target: &mut [u8]| arrays.copy_to(&message, input, dtype(input), target);
        let row_bytes = signature.row_bytes(shapes());
        // Numbers in shared memory may have changed when the batch is joined.
        let may_change = signature.bound.is_some() && matches!(arrays, Arrays::Shared(_));
        let key = if may_change { None } else { signature.key(rows, shapes(), copy, choice) };
        let Some(key) = key else { return Outcome::ForPython(message, respond) };
        // Only now, because it counts: Python admits the calls that it handles.
        let now = Instant::now();
        let asked = Asked {
            identity: &opening.identity,
            headers: &opening.headers,
            model: &signature.model,
            rows,
            method: &method.name,
            peer: &opening.peer,
        };
        let (mut admitted, low) = match self.admit(&asked) {
            Admission::Admitted(admitted, low) => (admitted, low),
            Admission::Unknown => return Outcome::ForPython(message, respond),
            Admission::Exhausted { text, seconds, mut refused } => {
                let status = Status::new(RESOURCE_EXHAUSTED, text);
                refused.trace(opening.traced.as_ref(), &signature.model, || (now, lane.clock().at(now)));
                refused.give_rows_back();
                refused.end(status.code);
                let _ = respond.send_response(status.response_for_later(seconds), true); // fails only without a client
                return Outcome::Refused { signature, why: Why::Exhausted, seconds: now.elapsed().as_secs_f64() };
            }
        };
        admitted.trace(opening.traced.as_ref(), &signature.model, || (now, lane.clock().at(now)));
        let memory = &opening.memory;
        if !memory.grow(Kind::Expanded, arrays.held()) || !memory.set(Kind::Answers, signature.expected_answer(rows)) {
            let status = Status::no_memory(memory.share().budget());
            admitted.give_rows_back();
            admitted.end(status.code);
            let _ = respond.send_response(status.response(), true); // fails only if the client has gone
            return Outcome::NoMemory;
        }
        let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
        let call = Call {
            message,
            arrays,
            protocol,
            respond,
            outbox: Some(outbox.clone()),
            memory: opening.memory.clone(),
            admitted,
            answer: None,
        };
        let task =
            NativeTask::new(signature, rows, Box::new(call), now).choosing(choice).traced(opening.traced.is_some());
        let priority = usize::from(low).max(self.priority(&opening.headers));
        let entry = Entry::new(Task::Native(task), rows, row_bytes, deadline, priority);
        let (refusal, task) = match lane.put_native(key, entry, now) {
            Ok(wake) => return Outcome::Waits { wake },
            Err((refusal, Task::Native(task))) => (refusal, task),
            Err((_, Task::Python(_))) => unreachable!("a task comes back as it was put"),
        };
        let (signature, seconds) = (task.signature.clone(), task.seconds());
        let mut call = Call::of(task);
        match refusal {
            Refusal::Full(full) => {
                let (status, why) = lane.refusal(&full, &signature, |reason| call.protocol.reason_of_full(reason));
                call.admitted.give_rows_back();
                bridge::PendingCall::refuse(&mut *call, &status);
                Outcome::Refused { signature, why, seconds }
            }
            Refusal::Closed => {
                opening.memory.set(Kind::Expanded, 0);
                call.admitted.undo();
                Outcome::ForPython(call.message, call.respond)
            }
        }
    }

    /// Whether callers must be known: then Python, or one of its verdicts, must see every call.
    pub fn is_guarded(&self) -> bool {
        self.verdicts.is_some()
    }

    /// Admits a call.
    pub fn admit(&self, asked: &Asked<'_>) -> Admission {
        match &self.verdicts {
            Some(verdicts) => verdicts.get().admit(asked),
            None => Admission::Admitted(Admitted::default(), false),
        }
    }

    fn understand(&self, method: Method, message: &Rope) -> Option<Understood> {
        let (routes, at) = (self.routes.get(), message.cursor());
        match method {
            Method::Predict => Understood::predict(routes, at),
            Method::Infer => Understood::infer(routes, self.regions.get(), at),
            Method::Classify => Understood::examples(routes, at, |examples| examples.classify.as_ref()),
            Method::Regress => Understood::examples(routes, at, |examples| examples.regress.as_ref()),
            Method::MultiInference => Understood::multi_inference(routes, at, &self.names),
        }
    }

    /// 1 for a call that gives way to the others.
    fn priority(&self, headers: &HeaderMap) -> usize {
        let (name, low) = &self.low_priority;
        // Compares each name, since a hash lookup is slower.
        usize::from(headers.iter().any(|(each, value)| each == name && value == low))
    }
}

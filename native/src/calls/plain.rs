//! Plain calls: decoded here, added to their queue, and answered without a Python handler.
//!
//! In Rust, only this file decides whether a call is plain: it is plain if its method is in `Method`, its answer is not
//! compressed (`PlainCalls::may_take`), and its message contains only what its codec and a published route understand
//! (`Understood`). Python handles all other calls, valid or not.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::opening::Opening;
use super::respond::Respond;
use super::understood::{Arrays, MethodNames, Understood};
use super::waiting::{Call, CallOutbox};
use crate::bridge::{self, Lane, NativeTask, Routes, Signature, Task, Why};
use crate::grpc::{Encoding, RESOURCE_EXHAUSTED, Status};
use crate::memory::Kind;
use crate::open_inference::Regions;
use crate::protobuf::Rope;
use crate::queue::{Entry, Key, Refusal};
use crate::security::{Admission, Admitted, Asked, Identity, LARGE, Verdicts};

/// Handles the plain calls of a server.
pub struct PlainCalls {
    /// The methods of this server that may have plain calls.
    methods: Vec<PlainMethod>,
    names: MethodNames,
    /// The metadata that marks a call of low priority.
    low_priority: (HeaderName, HeaderValue),
    routes: Py<Routes>,
    regions: Py<Regions>,
    /// Decides who may call; None if anybody may.
    verdicts: Option<Py<Verdicts>>,
}

/// A method that may have plain calls.
struct PlainMethod {
    number: usize,
    method: Method,
    /// The method's name in the audit log: the path without the first slash.
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
/// of the metadata that marks a call of low priority.
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

/// The outcome of a plain call.
pub enum Outcome {
    /// The call waits in its queue. `wake` says whether a thread must be woken for it.
    Waits { wake: bool },
    /// There is no memory for the call's answer, and its client has been sent an error.
    NoMemory,
    /// The call was refused this many seconds after it arrived, and its client has been sent an error.
    Refused { signature: Arc<Signature>, why: Why, seconds: f64 },
    /// Python must handle the call, for one of these reasons: it is not plain; it must run alone; Python must decide
    /// whether to admit it; or its version is being unloaded, and another version may already serve the model.
    ForPython(Rope, Respond),
}

/// A plain call that has not been admitted yet.
struct Plain<'a> {
    /// The method's name in the audit log.
    method: &'a str,
    understood: Understood,
    /// The number of bytes that one row takes in a batch.
    row_bytes: usize,
    key: Key,
}

impl PlainCalls {
    /// `number` returns the number of a method, given its full path.
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
    pub fn put(&self, opening: &Opening, message: Rope, respond: Respond, outbox: &Arc<CallOutbox>) -> Outcome {
        if message.len() > LARGE && !self.knows(&opening.identity, &opening.headers) {
            return Outcome::ForPython(message, respond);
        }
        let Some(plain) = self.plain(opening, &message) else { return Outcome::ForPython(message, respond) };
        // This comes last because it counts the call: Python admits, and counts, the calls that it handles.
        let now = Instant::now();
        let admission = self.admission(opening, &plain, now);
        let Plain { understood: Understood { signature, lane, arrays, rows, choice, protocol }, .. } = plain;
        let (admitted, low) = match admission {
            Admission::Admitted(admitted, low) => (admitted, low),
            Admission::Unknown => return Outcome::ForPython(message, respond),
            Admission::Exhausted { text, seconds, refused } => {
                let status = Status::new(RESOURCE_EXHAUSTED, text);
                refuse(refused, status.code, status.response_for_later(seconds), respond);
                return Outcome::Refused { signature, why: Why::Exhausted, seconds: now.elapsed().as_secs_f64() };
            }
        };
        let memory = &opening.memory;
        if !memory.grow(Kind::Expanded, arrays.held()) || !memory.set(Kind::Answers, signature.expected_answer(rows)) {
            let status = Status::no_memory(memory.budget());
            refuse(admitted, status.code, status.response(), respond);
            return Outcome::NoMemory;
        }
        let (outbox, memory) = (Some(outbox.clone()), memory.clone());
        let call = Call { message, arrays, protocol, respond, outbox, memory, admitted, answer: None };
        let task =
            NativeTask::new(signature, rows, Box::new(call), now).choosing(choice).traced(opening.traced.is_some());
        let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
        let priority = usize::from(low).max(self.priority(&opening.headers));
        let entry = Entry::new(Task::Native(task), rows, plain.row_bytes, deadline, priority);
        match lane.put_native(plain.key, entry, now) {
            Ok(wake) => Outcome::Waits { wake },
            Err((refusal, Task::Native(task))) => turned_away(task, refusal, &lane, opening),
            Err((_, Task::Python(_))) => unreachable!("a refused task is returned unchanged"),
        }
    }

    /// Reads a call; None if it is not plain, or must run alone.
    fn plain(&self, opening: &Opening, message: &Rope) -> Option<Plain<'_>> {
        let method = self.method(opening)?;
        let understood = self.understand(method.method, message)?;
        let Understood { signature, arrays, rows, choice, .. } = &understood;
        // Numbers in shared memory may change after they have been compared with the bound, so Python handles such a
        // call.
        if signature.bound.is_some() && matches!(arrays, Arrays::Shared(_)) {
            return None;
        }
        let shapes = || arrays.shapes(signature.inputs.len());
        let dtype = |input: usize| signature.inputs[input].dtype;
        let copy = |input: usize, target: &mut [u8]| arrays.copy_to(message, input, dtype(input), target);
        let key = signature.key(*rows, shapes(), copy, *choice)?;
        let row_bytes = signature.row_bytes(shapes());
        Some(Plain { method: &method.name, understood, row_bytes, key })
    }

    /// Decides whether to admit a call that arrived at `now`, and records the time in its trace.
    fn admission(&self, opening: &Opening, plain: &Plain<'_>, now: Instant) -> Admission {
        let Understood { signature, lane, rows, .. } = &plain.understood;
        let asked = Asked {
            identity: &opening.identity,
            headers: &opening.headers,
            model: &signature.model,
            rows: *rows,
            method: plain.method,
            peer: &opening.peer,
            came: now,
        };
        let mut admission = self.admit(&asked);
        if let Admission::Admitted(own, _) | Admission::Exhausted { refused: own, .. } = &mut admission {
            own.trace(opening.traced.as_ref(), &signature.model, || (now, lane.clock().at(now)));
        }
        admission
    }

    /// Whether callers are checked: then each call must be allowed by Python, or by one of its cached verdicts.
    pub fn is_guarded(&self) -> bool {
        self.verdicts.is_some()
    }

    /// Whether Python has allowed calls of this caller, or allows everybody's. Large messages of others are left to it.
    pub fn knows(&self, identity: &Identity, headers: &HeaderMap) -> bool {
        self.verdicts.as_ref().is_none_or(|verdicts| verdicts.get().knows(identity, headers))
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

    /// 1 for a call of low priority, otherwise 0.
    fn priority(&self, headers: &HeaderMap) -> usize {
        let (name, low) = &self.low_priority;
        // Compares each name, since a hash lookup is slower.
        usize::from(headers.iter().any(|(each, value)| each == name && value == low))
    }
}

/// Answers a call that does not enter the queue.
fn refuse(mut admitted: Admitted, code: u8, response: http::Response<()>, mut respond: Respond) {
    admitted.give_rows_back();
    admitted.end(code);
    respond.end(response);
}

/// Ends the call of a task that its lane has refused, or leaves it to Python.
fn turned_away(task: NativeTask, refusal: Refusal, lane: &Lane, opening: &Opening) -> Outcome {
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

//! A call of an HTTP port that waits in a queue for its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderMap;

use super::rest::Rest;
use crate::bridge::{Choice, Lane, NativeTask, PendingCall, Signature, Task, Why};
use crate::calls::until;
use crate::grpc::{DEADLINE_EXCEEDED, Status};
use crate::http::{Answer, Answered, Endpoint, PlainCall};
use crate::memory::{CallMemory, Kind};
use crate::queue::{Entry, Key, Refusal};
use crate::rest::{self, Mailbox};
use crate::security::Admitted;

/// The API that a call belongs to, which determines the format of its answer and its error texts.
pub(super) enum Api {
    TfServing,
    /// The Open Inference Protocol, with the request's ID.
    OpenInference(String),
}

impl Api {
    fn refusal(&self, endpoint: &Endpoint, status: &Status) -> Answer {
        match self {
            Self::TfServing => rest::refusal(endpoint, status),
            Self::OpenInference(_) => rest::infer::refusal(endpoint, status),
        }
    }

    /// The headers of every answer.
    fn headers<'a>(&self, endpoint: &'a Endpoint) -> &'a HeaderMap {
        match self {
            Self::TfServing => &endpoint.headers,
            Self::OpenInference(_) => &endpoint.infer.headers,
        }
    }

    fn late(&self, endpoint: &Endpoint) -> Answer {
        match self {
            Self::TfServing => endpoint.late.answer(),
            Self::OpenInference(_) => endpoint.infer.late.answer(),
        }
    }

    /// The text that is inserted into the error for a full queue: the reason, or the request's ID.
    fn reason_of_full(&self, reason: &str) -> String {
        match self {
            Self::TfServing => reason.to_owned(),
            Self::OpenInference(id) if id.is_empty() => "<id_unknown>".to_owned(),
            Self::OpenInference(id) => id.clone(),
        }
    }
}

/// The route of a call, its size, and its priority.
pub(super) struct Place {
    pub lane: Lane,
    pub key: Key,
    pub rows: usize,
    /// The number of bytes that one row takes in a batch.
    pub row_bytes: usize,
    /// The wanted outputs; None means all.
    pub choice: Option<Choice>,
    /// Whether the call has low priority.
    pub low: bool,
}

/// A call that waits.
pub struct Pending {
    rest: Rest,
    api: Api,
    signature: Arc<Signature>,
    mailbox: Arc<Mailbox>,
    came: Instant,
    deadline: Option<Instant>,
    /// The status of a call that was not put into the queue, and the reason; the reason is None for a lack of memory,
    /// which is not counted.
    refused: Option<(Status, Option<Why>)>,
    admitted: Admitted,
}

impl Pending {
    pub(super) fn new(rest: &Rest, api: Api, signature: Arc<Signature>, came: Instant, admitted: Admitted) -> Self {
        let mailbox = Arc::new(Mailbox::new(rest.connection.clone()));
        let rest = rest.clone();
        Self { rest, api, signature, mailbox, came, deadline: None, refused: None, admitted }
    }

    /// Creates a call, which delivers its answer to the mailbox, and puts it into its queue.
    ///
    /// Returns None if the version is being unloaded: Python then answers the call, perhaps with the version that has
    /// taken its place.
    pub(super) fn put(
        mut self,
        place: Place,
        memory: Arc<CallMemory>,
        call: impl FnOnce(Arc<Mailbox>) -> Box<dyn PendingCall>,
    ) -> Option<Self> {
        let Place { lane, key, rows, row_bytes, choice, low } = place;
        let now = Instant::now();
        self.admitted.trace(self.rest.traced.as_ref(), &self.signature.model, || (now, lane.clock().at(now)));
        if !memory.set(Kind::Answers, self.signature.expected_answer(rows)) {
            self.refuse(Status::no_memory(self.rest.budget()), None);
            return Some(self);
        }
        let call = call(self.mailbox.clone());
        let task = NativeTask::new(self.signature.clone(), rows, call, self.came);
        let task = task.choosing(choice).traced(self.rest.traced.is_some());
        // The queue need not know the deadline: once the client stops waiting at the deadline, the call leaves the
        // queue.
        let entry = Entry::new(Task::Native(task), rows, row_bytes, None, usize::from(low));
        self.deadline = self.rest.endpoint().timeout.and_then(|timeout| now.checked_add(timeout));
        match lane.put_native(key, entry, now) {
            Ok(wake) => self.rest.thread.busy_poll.task_waits(wake),
            Err((Refusal::Full(full), _)) => {
                let named = |reason: &str| self.api.reason_of_full(reason);
                let (status, why) = lane.refusal(&full, &self.signature, named);
                self.refuse(status, Some(why));
            }
            Err((Refusal::Closed, _)) => {
                std::mem::take(&mut self.admitted).undo();
                return None;
            }
        }
        Some(self)
    }

    fn refuse(&mut self, status: Status, why: Option<Why>) {
        self.admitted.give_rows_back();
        self.refused = Some((status, why));
    }

    /// Records the gRPC code with which the call ended.
    fn ended(&mut self, answered: Answered, code: u8) -> Answered {
        self.admitted.answered_with(answered.status());
        self.admitted.end(code);
        answered
    }

    pub(super) async fn answer(mut self) -> Answer {
        let deadline = self.deadline;
        let in_time = tokio::select! {
            biased;
            answered = poll_fn(|context| self.poll(context)) => Some(answered),
            () = until(deadline) => None,
        };
        let answered = match in_time.or_else(|| self.expire()) {
            Some(answered) => answered,
            None => poll_fn(|context| self.poll(context)).await,
        };
        answered.answer(self.api.headers(self.rest.endpoint()))
    }
}

impl PlainCall for Pending {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Answered> {
        let Some((status, why)) = self.refused.take() else {
            return self.mailbox.poll(context).map(|(answered, code)| self.ended(answered, code));
        };
        if let Some(why) = why {
            let ended = &self.rest.thread.shared.ended;
            ended.add_refused(&self.signature, why, self.came.elapsed().as_secs_f64());
        }
        let answer = self.api.refusal(self.rest.endpoint(), &status);
        Poll::Ready(self.ended(answer.into(), status.code))
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn expire(&mut self) -> Option<Answered> {
        self.mailbox.close().then(|| {
            self.rest.thread.shared.ended.add_late(&self.signature, self.came.elapsed().as_secs_f64());
            self.ended(self.api.late(self.rest.endpoint()).into(), DEADLINE_EXCEEDED)
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

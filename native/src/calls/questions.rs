//! Keeps Python's answers to calls, and repeats them for equal calls until the server's state changes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::HeaderMap;
use pyo3::prelude::*;

use super::opening::{Arrived, Opening};
use super::reply::Reply;
use crate::bridge::{Count, EndedCalls};
use crate::grpc::{OK, Status};
use crate::kept::{Answer as KeptAnswer, Kept, MAX_QUESTION};
use crate::protobuf::Rope;

/// The parts of a call on which its answer depends.
#[derive(PartialEq, Eq, Hash)]
struct Question {
    method: usize,
    message: Bytes,
}

/// The last message of an answer, and the counter of the calls that get it.
#[derive(Clone)]
pub struct Answer {
    message: Bytes,
    count: Arc<Count>,
}

/// The kept answers, by the questions that they answer.
#[derive(Default)]
pub struct Questions {
    kept: Kept<Question, Answer>,
}

/// A call that Python is answering, and the server's state when the call arrived.
pub struct Asked {
    state: u64,
    question: Question,
}

impl Questions {
    /// The kept answer to an equal call, if there is one.
    pub fn find(&self, opening: &Opening, message: &Arrived) -> Option<Answer> {
        match message {
            Some(Ok(message)) if message.len() <= MAX_QUESTION => {
                self.kept.find(&question(opening.method, message)?, Instant::now())
            }
            _ => None,
        }
    }

    /// Records a call before it is answered; None for a call whose answer is never kept.
    pub fn ask(&self, method: usize, message: &Rope) -> Option<Asked> {
        (message.len() <= MAX_QUESTION).then_some(())?;
        Some(Asked { state: self.kept.state(), question: question(method, message)? })
    }

    /// Keeps an answer; `count` is called with the seconds of each call that gets it.
    pub fn put(&self, asked: Asked, message: Bytes, count: Py<PyAny>) {
        let Asked { state, mut question } = asked;
        let bytes = question.message.len() + message.len();
        // A copy, because the message shares memory with everything else that was read with it.
        question.message = Bytes::copy_from_slice(&question.message);
        let answer = Answer { message, count: Arc::new(Count::new(count)) };
        self.kept.put(state, question, KeptAnswer { answer, bytes, until: None });
    }

    /// Drops all kept answers, because the server's state has changed.
    pub fn forget(&self) {
        self.kept.forget();
    }
}

fn question(method: usize, message: &Rope) -> Option<Question> {
    Some(Question { method, message: message.clone().into_bytes().ok()? })
}

impl Answer {
    /// Answers another call, and has it counted.
    pub fn send(self, opening: &Opening, respond: SendResponse<Bytes>, ended: &EndedCalls) {
        let came = Instant::now();
        // Fails only if the client has gone.
        let _ = Reply::new(respond, opening).end(Some(self.message), &Status::new(OK, ""), HeaderMap::new());
        ended.add_answered(&self.count, came.elapsed().as_secs_f64());
    }
}

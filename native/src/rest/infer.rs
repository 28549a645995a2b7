//! A plain infer over HTTP that waits: its tensors, and where its answer is delivered.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};

use super::Mailbox;
use crate::bridge::{PendingCall, Signature};
use crate::grpc::{INTERNAL, OK, Status};
use crate::http::{Answer, Endpoint, Unread, answer};
use crate::memory::CallMemory;
use crate::open_inference::json::{Body, Common, write_error};
use crate::predict::Output;
use crate::protobuf::Dtype;

/// The header with the number of a body's bytes that are JSON.
pub const JSON_SIZE: &str = "inference-header-content-length";

/// A plain infer call.
pub struct Call {
    pub body: Body,
    pub common: Arc<Common>,
    pub mailbox: Arc<Mailbox>,
    pub memory: Arc<CallMemory>,
    /// The answer's body and how many bytes of it are JSON, or the error, once it is encoded.
    pub encoded: Option<Result<(Bytes, Option<usize>), Status>>,
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
    answer(endpoint.infer.status(status), endpoint.infer.headers.clone(), body.freeze())
}

impl Call {
    /// Whether an output is wanted as binary data.
    fn is_binary(&self, alias: &str) -> bool {
        let number = self.common.outputs.iter().position(|output| output.name == alias.as_bytes());
        number.is_some_and(|number| self.body.binary[number])
    }

    fn succeeded(&self, body: Bytes, json: Option<usize>) -> Answer {
        let mut headers = self.mailbox.endpoint().infer.headers.clone();
        if let Some(json) = json {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            headers.insert(HeaderName::from_static(JSON_SIZE), json.into());
        }
        answer(StatusCode::OK, headers, body)
    }
}

impl PendingCall for Call {
    fn inner(&self, input: usize) -> &[usize] {
        &self.body.tensors[input].inner
    }

    fn copy_to(&self, input: usize, _: Dtype, target: &mut [u8]) {
        target.copy_from_slice(&self.body.tensors[input].bytes);
    }

    fn client_gone(&mut self) -> bool {
        self.mailbox.is_closed()
    }

    fn claim(&mut self) -> bool {
        self.mailbox.claim()
    }

    fn encode(&mut self, signature: &Signature, outputs: &[Output<'_>], start: usize, rows: usize, _: &mut BytesMut) {
        let wanted: Vec<_> = outputs.iter().map(|output| (output.clone(), self.is_binary(output.alias))).collect();
        self.memory.drop_request();
        let written = self.common.format.write(&self.body.id, &wanted, &(start..start + rows), &self.memory);
        let no_room = |reason| Status::no_room(reason, self.memory.budget());
        let undeclared = || Status::new(INTERNAL, "an output has a dtype that its signature does not declare");
        self.encoded = Some(written.map_err(no_room).and_then(|written| written.ok_or_else(undeclared)).and_then(
            |(body, json)| {
                signature.answered_with(body.len(), rows);
                Unread::hold(body, self.memory.clone()).map(|body| (body.into(), json)).map_err(no_room)
            },
        ));
    }

    fn send(mut self: Box<Self>) {
        match self.encoded.take() {
            Some(Ok((body, json))) => self.mailbox.put(self.succeeded(body, json).into(), OK),
            Some(Err(status)) => self.refuse(&status),
            None => {}
        }
    }

    fn refuse(&mut self, status: &Status) {
        self.mailbox.put(refusal(self.mailbox.endpoint(), status).into(), status.code);
    }
}

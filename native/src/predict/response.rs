//! A task's answer: its rows of each output as bytes, and the way to its caller.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;

use super::Task;
use crate::bridge::python;
use crate::grpc::{self, PREFIX, Status};
use crate::protobuf::tensor::{Dtype, Rows};
use crate::protobuf::wire;

const LARGE: usize = 64 * 1024;

/// One output of a batch: its alias, its shape beyond axis 0, and its bytes.
pub struct Output<'a> {
    pub alias: &'a str,
    pub dtype: Dtype,
    pub inner: &'a [usize],
    pub bytes: &'a [u8],
}

impl<'a> Output<'a> {
    fn rows(&self, start: usize, stop: usize) -> Rows<'a> {
        let row = self.inner.iter().product::<usize>() * self.dtype.size();
        Rows { dtype: self.dtype, rows: stop - start, inner: self.inner, bytes: &self.bytes[start * row..stop * row] }
    }
}

impl Task {
    /// Encodes its rows, from `start` on, of each output; `out` is where bytes are written that many tasks share.
    pub fn answer(self, outputs: &[Output<'_>], start: usize, out: &mut BytesMut) -> Answer {
        let (route, stop) = (self.route.get(), start + self.rows);
        let tensors: Vec<_> = outputs.iter().map(|output| (output.alias, output.rows(start, stop))).collect();
        let lengths: Vec<_> = tensors.iter().map(|(_, rows)| rows.encoded_len(route.as_content)).collect();
        let entries = tensors.iter().zip(&lengths).map(|((alias, _), len)| wire::field_len(1, entry_len(alias, *len)));
        let len = entries.sum::<usize>() + route.model_spec.len();
        if let Some(refusal) = grpc::too_large_to_send(len, route.max_send) {
            return Answer { respond: self.respond, content: Err(Box::new(refusal)), came: self.came };
        }
        if len > LARGE {
            // It would keep the bytes of all others alive for as long as it takes to send.
            *out = BytesMut::with_capacity(PREFIX + len);
        }
        out.reserve(PREFIX + len);
        out.put_u8(0);
        out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        for ((alias, rows), len) in tensors.iter().zip(lengths) {
            wire::put_field(out, 1, entry_len(alias, len));
            wire::put_field(out, 1, alias.len());
            out.put_slice(alias.as_bytes());
            wire::put_field(out, 2, len);
            rows.encode(route.as_content, out);
        }
        out.put_slice(&route.model_spec);
        let frame = self.outgoing.count(out.split().freeze());
        Answer { respond: self.respond, content: Ok(frame), came: self.came }
    }
}

/// An encoded answer, or why there is none, and the way to its caller.
pub struct Answer {
    respond: SendResponse<Bytes>,
    content: Result<Bytes, Box<Status>>,
    came: Instant,
}

impl Answer {
    /// How long the caller has waited.
    pub fn seconds(&self) -> f64 {
        self.came.elapsed().as_secs_f64()
    }

    /// Hands it to the connection. Fails only where the caller has gone, or the connection has broken down inside, which
    /// concerns none of the others that this thread answers.
    pub fn send(self) {
        let _ = python::sheltered(|| self.try_send());
    }

    fn try_send(self) -> Result<(), h2::Error> {
        let mut respond = self.respond;
        let frame = match self.content {
            Ok(frame) => frame,
            Err(refusal) => return respond.send_response(refusal.response(), true).map(|_| ()),
        };
        let mut stream = respond.send_response(grpc::response(), false)?;
        stream.send_data(frame, false)?;
        stream.send_trailers(grpc::ok_trailers())
    }
}

/// Answers with a status alone; as `Answer::send`.
pub fn end(respond: &mut SendResponse<Bytes>, status: &Status) {
    let _ = python::sheltered(|| respond.send_response(status.response(), true));
}

fn entry_len(alias: &str, tensor: usize) -> usize {
    wire::field_len(1, alias.len()) + wire::field_len(2, tensor)
}

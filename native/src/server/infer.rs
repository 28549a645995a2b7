//! The plain infer of the Open Inference Protocol over HTTP: from a request to its queue, and its answer.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::request::Parts;
use tokio::task::spawn_blocking;

use super::pending::{Api, Pending, Place};
use super::rest::Rest;
use super::shared::Shared;
use crate::bridge::{Lane, OverRest};
use crate::http::{self as transport, Answer, SMALL};
use crate::memory::CallMemory;
use crate::open_inference::json::Body;
use crate::rest::ModelPath;
use crate::rest::infer::{Call, JSON_SIZE};

/// A plain request, and its route.
struct Understood {
    lane: Lane,
    over_rest: Arc<OverRest>,
    body: Body,
}

impl Rest {
    /// The answer to a plain infer, which is a POST without a query; None if Python must answer the request.
    pub(super) async fn infer(&self, head: &Parts, body: &transport::Body) -> Option<Answer> {
        let came = Instant::now();
        let asked = ModelPath::of_infer(head.uri.path()).filter(|_| !is_encoded(&head.headers))?;
        let (shared, memory) = (&self.thread.shared, body.memory.clone());
        let json = json_size(&head.headers, body.bytes.len())?;
        let understood = if json <= SMALL {
            read(shared, &asked, body, json)?
        } else {
            // A large body is parsed on another thread, since other requests share this one.
            let (shared, body, path) = (shared.clone(), body.clone(), head.uri.clone());
            spawn_blocking(move || read(&shared, &ModelPath::of_infer(path.path())?, &body, json)).await.ok()??
        };
        Some(self.put_infer(&head.headers, understood, memory, came)?.answer().await)
    }

    fn put_infer(
        &self,
        headers: &HeaderMap,
        understood: Understood,
        memory: Arc<CallMemory>,
        came: Instant,
    ) -> Option<Pending> {
        let Understood { lane, over_rest, body } = understood;
        let OverRest { signature, common } = &*over_rest;
        let inner = || body.tensors.iter().map(|tensor| &*tensor.inner);
        let copy = |input: usize, target: &mut [u8]| target.copy_from_slice(&body.tensors[input].bytes);
        let (key, row_bytes) = (signature.key(body.rows, inner(), copy, None)?, signature.row_bytes(inner()));
        // This comes last because it counts the call: Python admits, and counts, the calls that it handles.
        let (admitted, low) = self.admit(headers, "HTTP infer", signature, (body.rows, came))?;
        let api = Api::OpenInference(body.id.clone());
        let pending = Pending::new(self, api, signature.clone(), came, admitted);
        let (rows, common) = (body.rows, common.clone());
        pending.put(Place { lane, key, rows, row_bytes, choice: None, low }, memory.clone(), |mailbox| {
            Box::new(Call { body, common, mailbox, memory, encoded: None })
        })
    }
}

fn read(shared: &Shared, asked: &ModelPath<'_>, body: &transport::Body, json: usize) -> Option<Understood> {
    let route = shared.plain.routes().named(asked.model.as_bytes(), asked.version, &[])?;
    let over_rest = route.infer.as_ref()?.rest.clone()?;
    let signature = &over_rest.signature;
    let body = Body::read(&body.bytes, json, &signature.inputs, &over_rest.common.outputs, signature.max_rows)?;
    Some(Understood { lane: route.lane.clone(), over_rest, body })
}

/// Whether a body is compressed, or its answer may be.
fn is_encoded(headers: &HeaderMap) -> bool {
    let names_one = |name| headers.get_all(name).iter().any(|value| value != "identity");
    names_one(CONTENT_ENCODING) || names_one(ACCEPT_ENCODING)
}

/// How many bytes of a body of this size are JSON, according to the headers.
fn json_size(headers: &HeaderMap, size: usize) -> Option<usize> {
    let mut said = headers.get_all(JSON_SIZE).iter();
    let Some(value) = said.next() else { return Some(size) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let json = digits.parse().ok().filter(|json| (1..=size).contains(json))?;
    said.next().is_none().then_some(json)
}

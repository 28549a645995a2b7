//! One attempt of a call on a connection: sends the request, and reads the answer.

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::header::HeaderMap;
use http::{Request, Response};

use super::answer::{Answer, check_length, only_message, status, status_of_error, status_of_http};
use crate::grpc::Status;
use crate::protobuf::Rope;

/// The error of HTTP/2 that ended the call before there was an answer.
pub struct Broken(pub h2::Error);

/// Sends a request, whose body is in pieces, and reads the answer, a message of at most `limit` bytes.
pub async fn attempt(
    sender: SendRequest<Bytes>,
    head: Request<()>,
    body: &[Bytes],
    limit: usize,
) -> Result<Answer, Broken> {
    let mut sender = sender.ready().await.map_err(Broken)?;
    let (response, mut stream) = sender.send_request(head, false).map_err(Broken)?;
    for (place, piece) in body.iter().enumerate() {
        // Fails if the server has answered already; the answer is read below.
        if stream.send_data(piece.clone(), place + 1 == body.len()).is_err() {
            break;
        }
    }
    let (head, body) = response.await.map_err(Broken)?.into_parts();
    let head = Response::from_parts(head, ());
    if let Some(ended) = ended_at_once(&head) {
        return Ok(ended);
    }
    Ok(match read(body, limit).await {
        Ok((message, trailers)) => answered(message, trailers),
        Err(status) => Answer { begun: true, ..status.into() },
    })
}

/// The answer in the headers, if it consists only of headers or is not gRPC's.
fn ended_at_once(head: &Response<()>) -> Option<Answer> {
    if status(head.headers()).is_some() {
        return Some(Answer::ended(head.headers().clone()));
    }
    status_of_http(head.status()).map(Answer::from)
}

fn answered(body: Rope, trailers: HeaderMap) -> Answer {
    let mut answer = Answer { begun: true, ..Answer::ended(trailers) };
    if answer.status.is_ok() {
        match only_message(body) {
            Ok(message) => answer.message = message,
            Err(status) => answer.status = status,
        }
    }
    answer
}

/// Reads the whole body, and the trailers.
async fn read(mut body: RecvStream, limit: usize) -> Result<(Rope, HeaderMap), Status> {
    let mut came = Rope::default();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| status_of_error(&error, true))?;
        // Fails only for more bytes than have been received.
        let _ = body.flow_control().release_capacity(data.len());
        came.push(data);
        check_length(&came, limit)?;
    }
    let trailers = body.trailers().await.map_err(|error| status_of_error(&error, true))?;
    Ok((came, trailers.unwrap_or_default()))
}

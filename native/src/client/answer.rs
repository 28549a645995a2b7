//! The result of a call: a message, or its status and metadata.

use h2::Reason;
use http::{HeaderMap, StatusCode};

use super::connection::Unconnected;
use crate::grpc::{CANCELLED, INTERNAL, PERMISSION_DENIED, PREFIX, RESOURCE_EXHAUSTED, Status, UNAVAILABLE};
use crate::grpc::{UNAUTHENTICATED, UNIMPLEMENTED, UNKNOWN, prefix};
use crate::protobuf::Rope;

/// The highest of gRPC's codes.
const LAST_CODE: u8 = 16;

/// How a call ended.
#[derive(Debug)]
pub struct Answer {
    pub status: Status,
    /// The trailers.
    pub metadata: HeaderMap,
    /// The message of a successful call.
    pub message: Rope,
    /// Whether the server had begun to answer. If so, the call is not retried.
    pub begun: bool,
    /// Whether there is no connection because the TLS handshake failed.
    pub tls_failed: bool,
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self { status, metadata: HeaderMap::new(), message: Rope::default(), begun: false, tls_failed: false }
    }
}

impl From<Unconnected> for Answer {
    fn from(Unconnected { status, tls_failed }: Unconnected) -> Self {
        Self { tls_failed, ..status.into() }
    }
}

impl Answer {
    /// The answer for a call's trailers, or for headers that are also its trailers.
    pub fn ended(trailers: HeaderMap) -> Self {
        let status = status(&trailers).unwrap_or_else(|| Status::new(UNKNOWN, "the answer has no grpc-status"));
        Self { metadata: trailers, ..status.into() }
    }
}

/// The status in trailers, if there is one.
pub fn status(trailers: &HeaderMap) -> Option<Status> {
    let code = trailers.get("grpc-status")?.to_str().ok().and_then(|text| text.parse().ok());
    let code = code.filter(|code| *code <= LAST_CODE).unwrap_or(UNKNOWN);
    let text = trailers.get("grpc-message").map_or_else(String::new, |value| percent_decoded(value.as_bytes()));
    Some(Status { code, text })
}

/// The gRPC status that an HTTP status stands for if the answer has no gRPC status; None for HTTP's OK.
pub fn status_of_http(code: StatusCode) -> Option<Status> {
    if code == StatusCode::OK {
        return None;
    }
    let meaning = match code.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    };
    Some(Status::new(meaning, format!("Received http2 header with status: {}", code.as_u16())))
}

/// The status of a call that an HTTP/2 error has ended. `has_answered` says whether the server has ever sent HTTP/2.
pub fn status_of_error(error: &h2::Error, has_answered: bool) -> Status {
    let code = match error.reason() {
        _ if error.is_io() || error.is_go_away() => UNAVAILABLE,
        Some(Reason::REFUSED_STREAM) => UNAVAILABLE,
        Some(Reason::CANCEL) => CANCELLED,
        Some(Reason::ENHANCE_YOUR_CALM) => RESOURCE_EXHAUSTED,
        Some(Reason::INADEQUATE_SECURITY) => PERMISSION_DENIED,
        _ => INTERNAL,
    };
    let more = if has_answered { "" } else { "; the server has not answered in HTTP/2" };
    Status::new(code, format!("{error}{more}"))
}

/// Whether the server says that it has not processed the call, so that it may be sent again.
pub fn was_not_taken(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(Reason::REFUSED_STREAM))
}

/// The only message of an answer, after its prefix.
pub fn only_message(mut body: Rope) -> Result<Rope, Status> {
    let wrong = |text: &str| Status::new(INTERNAL, text);
    let (flag, length) = prefix(&body).ok_or_else(|| wrong("the answer ended before its message"))?;
    body.take(PREFIX);
    if body.len() != length {
        return Err(wrong("the answer is not one message"));
    }
    if flag != 0 {
        return Err(wrong("the answer is compressed, which this client did not ask for"));
    }
    Ok(body)
}

/// Refuses a message longer than `limit` as soon as its length is known.
pub fn check_length(body: &Rope, limit: usize) -> Result<(), Status> {
    let claimed = prefix(body).map_or(0, |(_, length)| length).max(body.len().saturating_sub(PREFIX));
    if claimed > limit {
        let text = format!("CLIENT: Received message larger than max ({claimed} vs. {limit})");
        return Err(Status::new(RESOURCE_EXHAUSTED, text));
    }
    Ok(())
}

/// Decodes gRPC's percent-encoding; invalid sequences stay unchanged.
pub fn percent_decoded(value: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(value.len());
    let mut left = value;
    while let Some((&byte, rest)) = left.split_first() {
        match (byte, rest) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                decoded.push(digit(*high) << 4 | digit(*low));
                left = after;
            }
            _ => {
                decoded.push(byte);
                left = rest;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn digit(byte: u8) -> u8 {
    char::from(byte).to_digit(16).map_or(0, |digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http::{HeaderName, HeaderValue};

    fn trailers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(|&both| pair(both)).collect()
    }

    #[test]
    fn statuses() {
        let of =
            |pairs: &[(&'static str, &'static str)]| status(&trailers(pairs)).map(|status| (status.code, status.text));
        assert_eq!(of(&[("grpc-status", "0")]), Some((0, String::new())));
        assert_eq!(of(&[("grpc-status", "5"), ("grpc-message", "a%20%C3%A9%zz")]), Some((5, "a é%zz".into())));
        for wrong in ["17", "-1", "x", ""] {
            assert_eq!(of(&[("grpc-status", wrong)]), Some((UNKNOWN, String::new())), "{wrong}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(Answer::ended(HeaderMap::new()).status.code, UNKNOWN);
        assert_eq!(status_of_http(StatusCode::SERVICE_UNAVAILABLE).map(|status| status.code), Some(UNAVAILABLE));
        assert_eq!(status_of_http(StatusCode::OK), None);
    }

    #[test]
    fn one_message() {
        let read = |bytes: &'static [u8]| {
            only_message(Bytes::from_static(bytes).into()).map(|message| message.into_bytes().unwrap())
        };
        assert_eq!(read(&[0, 0, 0, 0, 2, 7, 8]).unwrap(), [7, 8][..]);
        assert_eq!(read(&[0, 0, 0, 0, 0]).unwrap(), [][..]);
        for wrong in [&[][..], &[0, 0, 0, 0], &[0, 0, 0, 0, 2, 7], &[0, 0, 0, 0, 1, 7, 8], &[1, 0, 0, 0, 1, 7]] {
            assert_eq!(read(wrong).unwrap_err().code, INTERNAL, "{wrong:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_by_its_prefix() {
        let check = |bytes: &'static [u8]| check_length(&Bytes::from_static(bytes).into(), 2);
        assert!(check(&[0, 0, 0]).is_ok() && check(&[0, 0, 0, 0, 2]).is_ok());
        assert_eq!(check(&[0, 0, 0, 0, 3]).unwrap_err().text, "CLIENT: Received message larger than max (3 vs. 2)");
        assert!(check(&[0, 0, 0, 0, 0, 1, 2, 3]).is_err());
    }
}

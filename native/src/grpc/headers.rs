//! The headers and trailers of a call: content type, deadline, size, status, binary metadata.

use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::compression::Encoding;
use super::status::{INTERNAL, RESOURCE_EXHAUSTED, Status, UNIMPLEMENTED};

static GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
static ZERO: HeaderValue = HeaderValue::from_static("0");
static ACCEPTED: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
static GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

impl Status {
    /// The trailers with this status.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(self.code)));
        if !self.text.is_empty() {
            trailers.insert(&GRPC_MESSAGE, percent_encoded(&self.text));
        }
        trailers
    }

    /// A response with only this status: headers and trailers in one.
    pub fn response(&self) -> Response<()> {
        let mut response = response();
        if self.code == UNIMPLEMENTED {
            response.headers_mut().insert(&GRPC_ACCEPT_ENCODING, ACCEPTED.clone());
        }
        response.headers_mut().extend(self.trailers());
        response
    }

    /// The response to a call that may be sent again after this many seconds. Clients that retry automatically respect
    /// that.
    pub fn response_for_later(&self, seconds: f64) -> Response<()> {
        let mut response = self.response();
        let milliseconds = (seconds * 1e3).ceil() as u64;
        response.headers_mut().insert(&GRPC_RETRY_PUSHBACK, milliseconds.into());
        response
    }
}

/// The trailers of a successful call.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(&GRPC_STATUS, ZERO.clone());
    trailers
}

/// The head of a response, to be followed by messages or trailers.
pub fn response() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC.clone());
    response
}

/// The head of a response whose messages may be compressed.
pub fn compressed_response(encoding: Encoding) -> Response<()> {
    let mut response = response();
    if encoding != Encoding::Identity {
        response.headers_mut().insert(&GRPC_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    response
}

/// A refusal with an HTTP status, for clients that do not speak gRPC.
pub fn http_refusal(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The values of a request's headers that gRPC itself needs.
pub struct CallHeaders {
    pub is_grpc: bool,
    /// The headers' size in bytes, as HTTP/2 counts it.
    size: usize,
    /// The timeout of a call, None if it has none; an error if it is malformed.
    pub timeout: Result<Option<Duration>, Status>,
    /// The compression of the messages.
    pub encoding: Result<Encoding, Status>,
}

impl CallHeaders {
    /// Reads the headers in one pass: looking each name up would hash it, which costs several times as much.
    pub fn of(headers: &HeaderMap) -> Self {
        const EACH: usize = 32;
        let malformed = || Status::new(INTERNAL, "grpc-timeout is malformed");
        let (mut size, mut kind, mut timeout, mut encoding) = (0, None, None, None);
        for (name, value) in headers {
            let name = name.as_str();
            size += name.len() + value.len() + EACH;
            let declared = match name {
                "content-type" => &mut kind,
                "grpc-timeout" => &mut timeout,
                "grpc-encoding" => &mut encoding,
                _ => continue,
            };
            declared.get_or_insert(value.as_bytes());
        }
        Self {
            is_grpc: kind.is_some_and(is_grpc),
            size,
            timeout: timeout.map(|value| parse_timeout(value).ok_or_else(malformed)).transpose(),
            encoding: encoding.map_or(Ok(Encoding::Identity), Encoding::of_request),
        }
    }

    /// Refuses metadata that is larger than `limit`.
    pub fn check_size(&self, limit: u32) -> Result<(), Status> {
        let size = self.size;
        if size > limit as usize {
            let text = format!("received metadata size exceeds hard limit ({size} vs. {limit})");
            return Err(Status::new(RESOURCE_EXHAUSTED, text));
        }
        Ok(())
    }
}

/// Whether a content type is gRPC's.
fn is_grpc(kind: &[u8]) -> bool {
    kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';'))
}

fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// gRPC's percent-encoding: encodes the percent sign, and every byte that is not printable ASCII.
fn percent_encoded(text: &str) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend([b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    // Printable ASCII is always a valid header value.
    HeaderValue::from_bytes(&encoded).unwrap_or(ZERO.clone())
}

/// Decodes the value of a binary header, with or without padding.
pub fn decode_binary(value: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT.decode(value).ok()
}

/// Encodes the value of a binary header.
pub fn encode_binary(value: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout(b"20m"), Some(Duration::from_millis(20)));
        assert_eq!(parse_timeout(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in [&b""[..], b"m", b"999999999S", b"-1S", b"1s", b"1.5S", b"1"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn texts_are_encoded_as_ascii() {
        assert_eq!(percent_encoded("100% \u{e9}\n"), "100%25 %C3%A9%0A");
    }

    #[test]
    fn content_types() {
        let says =
            |kind| CallHeaders::of(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))])).is_grpc;
        assert!(says("application/grpc") && says("application/grpc+proto") && says("application/grpc;x"));
        assert!(!says("application/grpc-web") && !says("text/html") && !CallHeaders::of(&HeaderMap::new()).is_grpc);
    }

    #[test]
    fn the_first_of_several_values_counts() {
        let mut headers = HeaderMap::new();
        for value in ["1S", "nonsense"] {
            headers.append("grpc-timeout", HeaderValue::from_static(value));
        }
        headers.append("grpc-encoding", HeaderValue::from_static("gzip"));
        let declared = CallHeaders::of(&headers);
        assert_eq!(declared.timeout, Ok(Some(Duration::from_secs(1))));
        assert!(matches!(declared.encoding, Ok(Encoding::Gzip)));
        assert!(declared.check_size(2 * (12 + 32) + 2 + 8 + 13 + 4 + 32).is_ok());
        assert!(declared.check_size(2 * (12 + 32) + 2 + 8 + 13 + 4 + 31).is_err());
    }

    #[test]
    fn malformed_headers_are_errors() {
        let says = |name: &'static str, value| {
            CallHeaders::of(&HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]))
        };
        assert!(says("grpc-timeout", "soon").timeout.is_err());
        assert!(says("grpc-encoding", "br").encoding.is_err());
        assert_eq!(says("x-other", "1S").timeout, Ok(None));
    }
}

//! gRPC framing: messages, deadlines, status, compression.

use std::io::Read;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use h2::RecvStream;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::protobuf::rope::Rope;

pub const PREFIX: usize = 5;
const LARGE: usize = 16 * 1024;
const LIGHT: usize = 2 * 1024;

pub const OK: u8 = 0;
pub const DEADLINE_EXCEEDED: u8 = 4;
pub const RESOURCE_EXHAUSTED: u8 = 8;
pub const UNIMPLEMENTED: u8 = 12;
pub const INTERNAL: u8 = 13;

static GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
static ZERO: HeaderValue = HeaderValue::from_static("0");
static ACCEPTED: HeaderValue = HeaderValue::from_static("identity,deflate,gzip");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How a call ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub code: u8,
    pub text: String,
}

impl Status {
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    /// The trailers that say so.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(&GRPC_STATUS, HeaderValue::from(u16::from(self.code)));
        if !self.text.is_empty() {
            trailers.insert(&GRPC_MESSAGE, percent_encoded(&self.text));
        }
        trailers
    }

    /// A response that is this status and nothing else: headers and trailers in one.
    pub fn response(&self) -> Response<()> {
        let mut response = response();
        if self.code == UNIMPLEMENTED {
            response.headers_mut().insert(&GRPC_ACCEPT_ENCODING, ACCEPTED.clone());
        }
        response.headers_mut().extend(self.trailers());
        response
    }
}

/// The trailers of a call that went well.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(&GRPC_STATUS, ZERO.clone());
    trailers
}

/// The head of a response that messages, or trailers, will follow.
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

/// A refusal in HTTP's words, for who does not speak gRPC.
pub fn http_refusal(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Whether a request says that it is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let kind = kind.as_bytes();
    kind.starts_with(b"application/grpc") && matches!(kind.get(16), None | Some(b'+' | b';'))
}

/// Refuses metadata that, by HTTP/2's count, is larger than `limit`.
pub fn check_size(headers: &HeaderMap, limit: u32) -> Result<(), Status> {
    const EACH: usize = 32;
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + EACH).sum();
    if size > limit as usize {
        let text = format!("received metadata size exceeds hard limit ({size} vs. {limit})");
        return Err(Status::new(RESOURCE_EXHAUSTED, text));
    }
    Ok(())
}

/// The time that a caller gives a call; None where it gives none.
pub fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else {
        return Ok(None);
    };
    match parse_timeout(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Status::new(INTERNAL, "grpc-timeout is malformed")),
    }
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

/// gRPC's percent-encoding: what is not printable ASCII, and the percent sign.
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
    // Printable ASCII is always a header value.
    HeaderValue::from_bytes(&encoded).unwrap_or(ZERO.clone())
}

/// A binary header's value, padded or not.
pub fn decode_binary(value: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    LENIENT.decode(value).ok()
}

/// A binary header's value as it travels.
pub fn encode_binary(value: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(value)
}

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Deflate,
    Gzip,
}

impl Encoding {
    /// What a request's compressed messages are compressed with.
    pub fn of_request(headers: &HeaderMap) -> Result<Self, Status> {
        let Some(value) = headers.get(&GRPC_ENCODING) else {
            return Ok(Self::Identity);
        };
        Self::named(value.as_bytes()).ok_or_else(|| {
            let name = String::from_utf8_lossy(value.as_bytes());
            Status::new(UNIMPLEMENTED, format!("Compression algorithm '{name}' not supported."))
        })
    }

    /// By grpc_compression_algorithm's number; what is unknown compresses nothing.
    pub fn numbered(number: u8) -> Self {
        match number {
            1 => Self::Deflate,
            2 => Self::Gzip,
            _ => Self::Identity,
        }
    }

    /// `wanted`, if the caller can read it.
    pub fn of_response(headers: &HeaderMap, wanted: Self) -> Self {
        let mut accepted =
            headers.get_all(&GRPC_ACCEPT_ENCODING).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
        if accepted.any(|name| Self::named(name.trim_ascii()) == Some(wanted)) { wanted } else { Self::Identity }
    }

    fn named(name: &[u8]) -> Option<Self> {
        [Self::Identity, Self::Deflate, Self::Gzip].into_iter().find(|encoding| encoding.name().as_bytes() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
        }
    }

    /// Expands a message to at most `limit` bytes.
    fn expand(self, data: Rope, limit: usize) -> Result<Bytes, Status> {
        let data = data.into_bytes();
        match self {
            Self::Identity => Err(Status::new(INTERNAL, "a message is compressed but grpc-encoding does not say how")),
            Self::Deflate => expand(ZlibDecoder::new(&*data), limit),
            Self::Gzip => expand(GzDecoder::new(&*data), limit),
        }
    }

    /// A message with its prefix; compressed where that was agreed and makes it smaller.
    pub fn frame(self, message: Bytes) -> Frame {
        if self == Self::Identity {
            return Frame::of(false, message);
        }
        match self.compress(&message) {
            Ok(smaller) if smaller.len() < message.len() => Frame::of(true, smaller.into()),
            _ => Frame::of(false, message),
        }
    }

    fn compress(self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        use std::io::Write;
        match self {
            Self::Identity => Ok(message.to_vec()),
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(message)?;
                encoder.finish()
            }
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(message)?;
                encoder.finish()
            }
        }
    }
}

fn expand(decoder: impl Read, limit: usize) -> Result<Bytes, Status> {
    let mut message = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    if let Err(error) = decoder.take(most).read_to_end(&mut message) {
        return Err(Status::new(INTERNAL, format!("a compressed message cannot be expanded: {error}")));
    }
    if message.len() > limit {
        return Err(too_large(format!("more than {limit}"), limit));
    }
    Ok(message.into())
}

/// A message as it travels: its prefix alone where it is too large to be copied behind one.
pub struct Frame {
    pub head: Bytes,
    pub tail: Option<Bytes>,
}

impl Frame {
    fn of(compressed: bool, message: Bytes) -> Self {
        let copied = if message.len() <= LARGE { message.len() } else { 0 };
        let mut head = BytesMut::with_capacity(PREFIX + copied);
        head.put_u8(compressed.into());
        // A message longer than a prefix can say has been refused before.
        head.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        if copied == message.len() {
            head.put_slice(&message);
            return Self { head: head.freeze(), tail: None };
        }
        Self { head: head.freeze(), tail: Some(message) }
    }
}

/// Why no message could be read.
#[derive(Debug)]
pub enum ReadError {
    /// The caller is to be told.
    Refused(Status),
    /// There is nobody to tell: the stream or its connection has ended.
    Gone,
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

/// Reads the messages of one request.
pub struct Messages {
    body: RecvStream,
    framed: Framed,
    first: Option<Rope>,
    expanding: Option<JoinHandle<Result<Rope, Status>>>,
}

impl Messages {
    pub fn new(body: RecvStream, encoding: Encoding, limit: usize) -> Self {
        Self { body, framed: Framed::new(encoding, limit), first: None, expanding: None }
    }

    /// The only message of a unary call. May be dropped while it waits, and asked for again.
    pub async fn only(&mut self) -> Result<Rope, ReadError> {
        if self.first.is_none() {
            self.first = self.next().await?;
        }
        match self.next().await? {
            None => {
                self.first.take().ok_or_else(|| Status::new(INTERNAL, "a unary call came without a message").into())
            }
            Some(_) => Err(Status::new(INTERNAL, "a unary call came with more than one message").into()),
        }
    }

    /// The next message; None at the end of the stream. May be dropped while it waits.
    pub async fn next(&mut self) -> Result<Option<Rope>, ReadError> {
        loop {
            if let Some(expanding) = &mut self.expanding {
                let expanded = expanding.await;
                self.expanding = None;
                let failed = |_| Err(Status::new(INTERNAL, "a compressed message could not be expanded"));
                return Ok(expanded.unwrap_or_else(failed).map(Some)?);
            }
            match self.framed.next()? {
                Some(message) if message.is_light() => return Ok(Some(message.expanded()?)),
                Some(message) => {
                    // Other calls live on this thread.
                    self.expanding = Some(spawn_blocking(|| message.expanded()));
                    continue;
                }
                None => {}
            }
            match self.body.data().await {
                Some(Ok(data)) => self.receive(data),
                Some(Err(_)) => return Err(ReadError::Gone),
                None => return Ok(self.framed.end().map(|()| None)?),
            }
        }
    }

    fn receive(&mut self, data: Bytes) {
        // Only fails for more than has been received.
        let _ = self.body.flow_control().release_capacity(data.len());
        self.framed.push(data);
    }
}

/// A message as it came, and how it is compressed and to how much it may expand, if it is.
struct Message {
    data: Rope,
    compressed: Option<(Encoding, usize)>,
}

impl Message {
    /// Whether its expansion is no work to speak of: a byte stands for a thousand at most.
    fn is_light(&self) -> bool {
        self.compressed.is_none() || self.data.len() <= LIGHT
    }

    fn expanded(self) -> Result<Rope, Status> {
        match self.compressed {
            Some((encoding, limit)) => encoding.expand(self.data, limit).map(Rope::from),
            None => Ok(self.data),
        }
    }
}

/// Messages and their prefixes, in whatever pieces they come.
pub struct Framed {
    received: Rope,
    encoding: Encoding,
    limit: usize,
}

impl Framed {
    pub fn new(encoding: Encoding, limit: usize) -> Self {
        Self { received: Rope::default(), encoding, limit }
    }

    pub fn push(&mut self, data: Bytes) {
        self.received.push(data);
    }

    /// Says whether the stream may end here.
    pub fn end(&self) -> Result<(), Status> {
        if self.received.is_empty() {
            return Ok(());
        }
        Err(Status::new(INTERNAL, "the stream ended within a message"))
    }

    /// A message that has come already, expanded.
    #[cfg(feature = "fuzzing")]
    pub fn message(&mut self) -> Result<Option<Rope>, Status> {
        self.next()?.map(Message::expanded).transpose()
    }

    /// A message that has come already; the length that its prefix claims is checked, and allocates nothing.
    fn next(&mut self) -> Result<Option<Message>, Status> {
        if self.received.len() < PREFIX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        self.received.copy_to(0, &mut prefix);
        let [flag, length @ ..] = prefix;
        let length = u32::from_be_bytes(length) as usize;
        if length > self.limit {
            return Err(too_large(length, self.limit));
        }
        if self.received.len() < PREFIX + length {
            return Ok(None);
        }
        self.received.take(PREFIX);
        let message = self.received.take(length);
        match flag {
            0 => Ok(Some(Message { data: message, compressed: None })),
            1 => Ok(Some(Message { data: message, compressed: Some((self.encoding, self.limit)) })),
            _ => Err(Status::new(INTERNAL, "a message's compression flag is neither 0 nor 1")),
        }
    }
}

/// Why a message that is longer than `limit` is not sent.
pub fn too_large_to_send(length: usize, limit: usize) -> Option<Status> {
    let text = || format!("SERVER: Sent message larger than max ({length} vs. {limit})");
    (length > limit).then(|| Status::new(RESOURCE_EXHAUSTED, text()))
}

fn too_large(length: impl std::fmt::Display, limit: usize) -> Status {
    Status::new(RESOURCE_EXHAUSTED, format!("SERVER: Received message larger than max ({length} vs. {limit})"))
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
    fn texts_travel_as_ascii() {
        assert_eq!(percent_encoded("100% \u{e9}\n"), "100%25 %C3%A9%0A");
    }

    #[test]
    fn expansion_is_bounded() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let bomb = encoding.compress(&vec![0; 1_000_000]).unwrap();
            let expanded = |limit| encoding.expand(Bytes::from(bomb.clone()).into(), limit);
            assert_eq!(expanded(1_000_000).unwrap().len(), 1_000_000);
            assert_eq!(expanded(999_999).unwrap_err().code, RESOURCE_EXHAUSTED);
        }
    }

    #[test]
    fn content_types() {
        let says = |kind| is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]));
        assert!(says("application/grpc") && says("application/grpc+proto") && says("application/grpc;x"));
        assert!(!says("application/grpc-web") && !says("text/html") && !is_grpc(&HeaderMap::new()));
    }
}

//! Finds a plain request at the beginning of the bytes that have been read.

use std::ops::Range;

use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::{EMPTY_HEADER, Status};

use crate::http::answers::PlainRequest;
use crate::http::intake::SMALL;
use crate::traces::CONTEXT;

/// The maximum number of bytes of a plain head.
pub const MAX_HEAD: usize = 8 << 10;

const MAX_HEADERS: usize = 24;

/// The beginning of the bytes that have been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A plain request, and its size in bytes.
    Request(PlainRequest<'a>, usize),
    /// An incomplete request. The number is the size of the whole request, or 0 if that is not known yet.
    Partial(usize),
    Unusual,
}

/// Finds plain requests. Most clients send the same head again and again, with only the body's length changed. So a
/// head is compared with the last one, and parsed only if more than the length differs.
#[derive(Default)]
pub struct Requests {
    path: String,
    context: HeaderMap,
    /// The bytes of the last head, up to the digits of the body's length.
    before: Vec<u8>,
    /// The bytes after these digits.
    after: Vec<u8>,
}

impl Requests {
    /// Examines the beginning of some bytes: it may be a request, a part of one, or something unusual.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8]) -> Next<'a> {
        let (head, size) = match self.again(bytes) {
            Some(again) => again,
            None => match Head::parse(bytes) {
                Ok(head) => self.learn(head, bytes),
                Err(next) => return next,
            },
        };
        match bytes.get(head..head + size) {
            Some(body) => Next::Request(PlainRequest { path: &self.path, context: &self.context, body }, head + size),
            None => Next::Partial(head + size),
        }
    }

    /// The size of a head, and the length that it states, if it differs from the last head only in that length.
    fn again(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let rest = bytes.strip_prefix(self.before.as_slice()).filter(|_| !self.after.is_empty())?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest[digits..].starts_with(&self.after).then_some(())?;
        let size = number(&rest[..digits]).filter(|size| *size <= SMALL)?;
        let head = self.before.len() + digits + self.after.len();
        (head <= MAX_HEAD).then_some((head, size))
    }

    /// Stores a head; returns its size, and the length of the body.
    fn learn(&mut self, head: Head<'_>, bytes: &[u8]) -> (usize, usize) {
        self.path.clear();
        self.path.push_str(head.path);
        self.before.clear();
        self.before.extend_from_slice(&bytes[..head.digits.start]);
        self.after.clear();
        self.after.extend_from_slice(&bytes[head.digits.end..head.end]);
        self.context = head.context;
        (head.end, head.size)
    }
}

/// The head of a plain request.
struct Head<'a> {
    path: &'a str,
    context: HeaderMap,
    /// The size of the body in bytes.
    size: usize,
    /// The range of the head's bytes that states the size of the body.
    digits: Range<usize>,
    /// The size of the head in bytes.
    end: usize,
}

impl<'a> Head<'a> {
    /// The head at the beginning of some bytes; None if it is not plain or not complete.
    fn parse(bytes: &'a [u8]) -> Result<Self, Next<'a>> {
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let end = match request.parse(bytes) {
            Ok(Status::Complete(end)) if end <= MAX_HEAD => end,
            Ok(Status::Partial) if bytes.len() < MAX_HEAD => return Err(Next::Partial(0)),
            _ => return Err(Next::Unusual),
        };
        let plain = request.method == Some("POST") && request.version == Some(1);
        let length = length(request.headers).filter(|_| plain).and_then(|length| Some((number(length)?, length)));
        let (Some(path), Some((size, length))) = (request.path, length.filter(|(size, _)| *size <= SMALL)) else {
            return Err(Next::Unusual);
        };
        let start = length.as_ptr().addr() - bytes.as_ptr().addr();
        Ok(Self { path, context: context(request.headers), size, digits: start..start + length.len(), end })
    }
}

/// The headers that say how a request's caller traces it.
fn context(headers: &[httparse::Header<'_>]) -> HeaderMap {
    let mut context = HeaderMap::new();
    for header in headers {
        let name = CONTEXT.into_iter().find(|name| header.name.eq_ignore_ascii_case(name));
        if let Some((name, value)) = name.zip(HeaderValue::from_bytes(header.value).ok()) {
            context.append(HeaderName::from_static(name), value);
        }
    }
    context
}

/// The length of the body, as the head states it; None if the head has an unusual header.
fn length<'a>(headers: &[httparse::Header<'a>]) -> Option<&'a [u8]> {
    let mut length = None;
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // Compares the length of a name first, since most headers have other lengths.
        match header.name.len() {
            14 if is("content-length") => length = Some(Some(header.value).filter(|_| length.is_none())?),
            10 if is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            6 if is("expect") => return None,
            7 if is("upgrade") || is("trailer") => return None,
            16 if is("content-encoding") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    length
}

fn number(digits: &[u8]) -> Option<usize> {
    let is_number = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Kind = Result<(String, Vec<u8>, usize), Option<usize>>;

    fn kind(requests: &mut Requests, bytes: &[u8]) -> Kind {
        match requests.next(bytes) {
            Next::Request(request, size) => Ok((request.path.to_owned(), request.body.to_vec(), size)),
            Next::Partial(size) => Err(Some(size)),
            Next::Unusual => Err(None),
        }
    }

    /// The result of parsing a text that is the first on its connection.
    fn first(text: &str) -> Kind {
        kind(&mut Requests::default(), text.as_bytes())
    }

    #[test]
    fn a_request_ends_with_its_body() {
        let head = "POST /a HTTP/1.1\r\nHost: x\r\nconnection: Keep-Alive\r\nCONTENT-LENGTH: 2\r\n\r\n";
        let text = format!("{head}{{}}POST");
        assert_eq!(first(&text), Ok(("/a".to_owned(), b"{}".to_vec(), head.len() + 2)));
        for end in 0..head.len() {
            assert_eq!(first(&head[..end]), Err(Some(0)), "{end}");
        }
        assert_eq!(first(&format!("{head}{{")), Err(Some(head.len() + 2)));
    }

    /// A request is read as on a new connection, whatever the connection has sent before.
    #[test]
    fn a_head_is_read_as_if_it_were_the_first() {
        let heads = [
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: \r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 65537\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1234567890\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2 \r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nX: y\r\n\r\n",
            "POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nX-Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nX-Content-Length: 7\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nX: content-length:1\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n",
        ];
        for before in heads {
            for head in heads {
                let text = format!("{head}{{}} and more");
                for end in 0..=text.len() {
                    let mut requests = Requests::default();
                    let _ = kind(&mut requests, format!("{before}{{}} and more").as_bytes());
                    assert_eq!(kind(&mut requests, &text.as_bytes()[..end]), first(&text[..end]), "{before:?} {end}");
                }
            }
        }
    }

    #[test]
    fn the_context_of_a_trace_is_that_of_the_same_head() {
        let head = |more: &str| format!("POST /a HTTP/1.1\r\n{more}Content-Length: 0\r\n\r\n");
        let one = head("TraceParent: 00-1\r\nTraceState: a=1\r\ntracestate: b=2\r\n");
        let mut requests = Requests::default();
        let mut context = |text: &str| match requests.next(text.as_bytes()) {
            Next::Request(request, _) => request.context.clone(),
            other => panic!("{other:?}"),
        };
        for _ in 0..2 {
            let found = context(&one);
            assert_eq!(found["traceparent"], "00-1");
            assert_eq!(found.get_all("tracestate").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
            assert_eq!(found.len(), 3);
        }
        assert_eq!(context(&one.replace("00-1", "00-2"))["traceparent"], "00-2");
        assert!(context(&head("Trace: 1\r\n")).is_empty());
    }

    #[test]
    fn other_requests_are_left_to_hyper() {
        let long = format!("X: {}\r\nContent-Length: 0", "a".repeat(MAX_HEAD));
        let many = format!("{}Content-Length: 0", "X: a\r\n".repeat(MAX_HEADERS));
        for headers in [
            "Host: x",
            "Content-Length: 65537",
            "Content-Length: +1",
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length:",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nConnection: close",
            "Content-Length: 1\r\nExpect: 100-continue",
            "Content-Length: 1\r\nContent-Encoding: gzip",
            "Content-Length: 1\r\nUpgrade: h2c",
            "Content-Length : 1",
            &long,
            &many,
        ] {
            let text = format!("POST /a HTTP/1.1\r\n{headers}\r\n\r\n");
            assert_eq!(first(&text), Err(None), "{headers}");
        }
        for line in ["GET /a HTTP/1.1", "POST /a HTTP/1.0", "POST /a HTTP/2.0", "POST /a", "POST  HTTP/1.1", "\0"] {
            let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(first(&text), Err(None), "{line}");
        }
        assert_eq!(first(&"a".repeat(MAX_HEAD)), Err(None));
    }
}

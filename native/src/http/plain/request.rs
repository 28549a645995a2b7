//! Finds a plain request at the beginning of the bytes that have been read.

use std::ops::Range;

use httparse::{EMPTY_HEADER, Status};

use crate::http::intake::SMALL;

/// The most bytes of a plain head.
pub const MAX_HEAD: usize = 8 << 10;

const MAX_HEADERS: usize = 24;

/// What is at the beginning of the bytes that have been read.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A plain request: its path, its body, and the size of its head and body in bytes.
    Request(&'a str, &'a [u8], usize),
    /// An incomplete request. The number is the size of the whole request, or 0 if that is not known yet.
    Partial(usize),
    Unusual,
}

/// Finds plain requests. Most clients send the same head again and again, with only the body's length changed. So a
/// head is compared with the last one, and parsed only if more than the length differs.
#[derive(Default)]
pub struct Requests {
    path: String,
    /// The bytes of the last head before the digits of its length.
    before: Vec<u8>,
    /// The bytes after these digits.
    after: Vec<u8>,
}

impl Requests {
    /// What is at the beginning of some bytes: a request, a part of one, or something unusual.
    pub fn next<'a>(&'a mut self, bytes: &'a [u8]) -> Next<'a> {
        if let Some((head, size)) = self.again(bytes) {
            return with_body(&self.path, bytes, head, size);
        }
        let head = match Head::parse(bytes) {
            Ok(head) => head,
            Err(next) => return next,
        };
        self.learn(&head, bytes);
        with_body(head.path, bytes, head.end, head.size)
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

    fn learn(&mut self, head: &Head<'_>, bytes: &[u8]) {
        self.path.clear();
        self.path.push_str(head.path);
        self.before.clear();
        self.before.extend_from_slice(&bytes[..head.digits.start]);
        self.after.clear();
        self.after.extend_from_slice(&bytes[head.digits.end..head.end]);
    }
}

/// A request with a head of this size, if its body has arrived.
fn with_body<'a>(path: &'a str, bytes: &'a [u8], head: usize, size: usize) -> Next<'a> {
    match bytes.get(head..head + size) {
        Some(body) => Next::Request(path, body, head + size),
        None => Next::Partial(head + size),
    }
}

/// The head of a plain request.
struct Head<'a> {
    path: &'a str,
    /// The size of the body, and the position of its digits.
    size: usize,
    digits: Range<usize>,
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
        Ok(Self { path, size, digits: start..start + length.len(), end })
    }
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
            Next::Request(path, body, size) => Ok((path.to_owned(), body.to_vec(), size)),
            Next::Partial(size) => Err(Some(size)),
            Next::Unusual => Err(None),
        }
    }

    /// The result of a text as the first on its connection.
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
    fn all_else_is_for_hyper() {
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

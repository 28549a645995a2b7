//! Finds a plain request at the beginning of what has been read.

use httparse::{EMPTY_HEADER, Status};

use crate::http::intake::SMALL;

/// Of a plain head, in bytes.
pub const MAX_HEAD: usize = 8 << 10;

const MAX_HEADERS: usize = 24;

/// What the bytes that have been read begin with.
pub enum Next<'a> {
    /// The path of a plain request, its body, and the bytes of both and the head.
    Request(&'a str, &'a [u8], usize),
    /// More of it must come: so many bytes in all, if that is known.
    Partial(usize),
    Unusual,
}

/// What some bytes begin with.
pub fn next(bytes: &[u8]) -> Next<'_> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes) {
        Ok(Status::Complete(head)) if head <= MAX_HEAD => head,
        Ok(Status::Partial) if bytes.len() < MAX_HEAD => return Next::Partial(0),
        _ => return Next::Unusual,
    };
    let plain = request.method == Some("POST") && request.version == Some(1);
    let (Some(path), Some(size)) = (request.path, body_size(request.headers).filter(|_| plain)) else {
        return Next::Unusual;
    };
    match bytes.get(head..head + size) {
        Some(body) => Next::Request(path, body, head + size),
        None => Next::Partial(head + size),
    }
}

/// The bytes of a small body, as its head says; None where the head says something unusual.
fn body_size(headers: &[httparse::Header<'_>]) -> Option<usize> {
    let mut size = None;
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        // By the lengths of their names, since most headers have another.
        match header.name.len() {
            14 if is("content-length") => size = Some(number(header.value).filter(|_| size.is_none())?),
            10 if is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive") => return None,
            6 if is("expect") => return None,
            7 if is("upgrade") || is("trailer") => return None,
            16 if is("content-encoding") => return None,
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    size.filter(|size| *size <= SMALL)
}

fn number(digits: &[u8]) -> Option<usize> {
    let is_number = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| digits.iter().fold(0, |number, digit| 10 * number + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(bytes: &str) -> Option<(&str, &[u8], usize)> {
        match next(bytes.as_bytes()) {
            Next::Request(path, body, size) => Some((path, body, size)),
            _ => None,
        }
    }

    #[test]
    fn a_request_ends_with_its_body() {
        let head = "POST /a HTTP/1.1\r\nHost: x\r\nconnection: Keep-Alive\r\nCONTENT-LENGTH: 2\r\n\r\n";
        let text = format!("{head}{{}}POST");
        assert_eq!(kind(&text), Some(("/a", &b"{}"[..], head.len() + 2)));
        for end in 0..head.len() {
            assert!(matches!(next(&head.as_bytes()[..end]), Next::Partial(0)), "{end}");
        }
        assert!(matches!(next(format!("{head}{{").as_bytes()), Next::Partial(size) if size == head.len() + 2));
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
            assert!(matches!(next(text.as_bytes()), Next::Unusual), "{headers}");
        }
        for line in ["GET /a HTTP/1.1", "POST /a HTTP/1.0", "POST /a HTTP/2.0", "POST /a", "POST  HTTP/1.1", "\0"] {
            let text = format!("{line}\r\nContent-Length: 0\r\n\r\n");
            assert!(matches!(next(text.as_bytes()), Next::Unusual), "{line}");
        }
        assert!(matches!(next(&[b'a'; MAX_HEAD]), Next::Unusual));
    }
}

//! The plain requests of an HTTP/1.1 connection, which are read and answered without hyper: calls whose bodies are small
//! and whose heads say nothing unusual.
//!
//! The benefit: a :predict of one row takes a third fewer instructions. The first request that is not plain goes to hyper,
//! as its bytes, and so does all that follows it on the connection.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use httparse::{EMPTY_HEADER, Status};
use httpdate::HttpDate;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until};

use super::answer::{Answer, Content};
use super::intake::SMALL;
use super::progress::Progress;
use super::stalling::Stalling;
use crate::http2::Stream;

/// Of a plain head; also what is read at once.
const MAX_HEAD: usize = 8 << 10;

const MAX_HEADERS: usize = 24;

/// The connection of a client that speaks HTTP/1.1.
pub struct Plain {
    stream: Stalling<Stream>,
    progress: Progress,
    /// What has been read of requests that are not answered yet: so many bytes of it.
    buffer: Vec<u8>,
    filled: usize,
    idle: Pin<Box<Sleep>>,
    keep_alive: Duration,
    since: Instant,
    out: Vec<u8>,
}

/// How an attempt to read more has ended.
enum More {
    Came,
    /// The client has gone, or has been idle for too long.
    Ended,
    Stopping,
}

/// What the buffer begins with.
enum Next<'a> {
    /// The path of a plain request, its body, and the bytes of both and the head.
    Request(&'a str, &'a [u8], usize),
    /// More of it must come: so many bytes in all, if that is known.
    Partial(usize),
    Unusual,
}

impl Plain {
    /// A connection of which nothing has been read; it may be idle for so long.
    pub fn new(stream: Stalling<Stream>, progress: Progress, keep_alive: Duration) -> Self {
        let since = Instant::now();
        let idle = Box::pin(sleep_until((since + keep_alive).into()));
        let buffer = vec![0; MAX_HEAD];
        Self { stream, progress, buffer, filled: 0, idle, keep_alive, since, out: Vec::new() }
    }

    /// Answers plain requests; `call` begins one of a path and a body, unless it is not plain after all. Ends with the bytes of a
    /// request that is not plain, or with None where the connection has ended.
    pub async fn serve<P: Future<Output = Answer>>(
        mut self,
        call: impl Fn(&str, &[u8]) -> Option<P>,
        is_stopping: impl Fn() -> bool,
        mut stopping: Pin<&mut impl Future>,
    ) -> Option<(Vec<u8>, Stalling<Stream>)> {
        loop {
            let (pending, size) = match next(&self.buffer[..self.filled]) {
                Next::Request(path, body, size) => (call(path, body), size),
                Next::Partial(size) => {
                    self.make_room(size);
                    match self.more(stopping.as_mut()).await {
                        More::Came => continue,
                        More::Stopping if self.filled > 0 => (None, 0),
                        More::Ended | More::Stopping => return None,
                    }
                }
                Next::Unusual => (None, 0),
            };
            let Some(pending) = pending else {
                self.buffer.truncate(self.filled);
                return Some((self.buffer, self.stream));
            };
            self.progress.is_answered();
            self.drop_request(size);
            let answer = self.answered(pending).await?;
            let last = is_stopping();
            self.send(answer, last).await.ok()?;
            if last {
                let _ = self.stream.shutdown().await; // its client may have gone
                return None;
            }
            self.rest();
        }
    }

    /// Waits for more bytes.
    async fn more(&mut self, mut stopping: Pin<&mut impl Future>) -> More {
        poll_fn(|context| {
            if let Poll::Ready(read) = self.poll_read(context) {
                return Poll::Ready(if read { More::Came } else { More::Ended });
            }
            if stopping.as_mut().poll(context).is_ready() {
                return Poll::Ready(More::Stopping);
            }
            self.poll_idle(context).map(|()| More::Ended)
        })
        .await
    }

    /// The answer; None where the client has gone before.
    async fn answered(&mut self, pending: impl Future<Output = Answer>) -> Option<Answer> {
        let mut pending = pin!(pending);
        poll_fn(|context| {
            if let Poll::Ready(answer) = pending.as_mut().poll(context) {
                return Poll::Ready(Some(answer));
            }
            while self.filled < self.buffer.len() {
                match self.poll_read(context) {
                    Poll::Ready(true) => {}
                    Poll::Ready(false) => return Poll::Ready(None),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Whether bytes have come; they have not where the connection has ended.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut into = ReadBuf::new(&mut self.buffer[self.filled..]);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut into);
        let count = into.filled().len();
        self.filled += count;
        read.map(|read| read.is_ok() && count > 0)
    }

    /// Whether the next request has been waited for, or its end, for too long. The timer is set again only when it fires.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.idle.as_mut().poll(context).is_ready() {
            let until = self.since + self.keep_alive;
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.idle.as_mut().reset(until.into());
        }
        Poll::Pending
    }

    /// For a request of so many bytes.
    fn make_room(&mut self, size: usize) {
        if self.buffer.len() < size {
            self.buffer.resize(size, 0);
        }
    }

    /// Forgets a request that has been understood; what has come behind it is kept.
    fn drop_request(&mut self, size: usize) {
        self.buffer.copy_within(size..self.filled, 0);
        self.filled -= size;
        if self.buffer.len() > MAX_HEAD && self.filled <= MAX_HEAD {
            self.buffer.truncate(MAX_HEAD);
            self.buffer.shrink_to_fit();
        }
    }

    /// A request has been answered.
    fn rest(&mut self) {
        self.since = Instant::now();
        self.progress.rests();
        if self.filled > 0 {
            self.progress.came();
        }
    }

    async fn send(&mut self, answer: Answer, last: bool) -> io::Result<()> {
        let (head, content) = answer.into_parts();
        let Content::Whole(body) = content else { return Err(io::ErrorKind::InvalidData.into()) };
        let body = body.unwrap_or_default();
        self.out.clear();
        write_head(&head, body.len(), last, &mut self.out);
        if body.len() <= MAX_HEAD {
            self.out.extend_from_slice(&body);
            return self.stream.write_all(&self.out).await;
        }
        self.stream.write_all(&self.out).await?;
        self.stream.write_all(&body).await
    }
}

fn next(bytes: &[u8]) -> Next<'_> {
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

/// The head of an answer, as hyper writes it.
fn write_head(head: &http::response::Parts, size: usize, last: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in &head.headers {
        out.extend_from_slice(b"\r\n");
        write_name(name.as_str(), out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(b"\r\nContent-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    if last {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    out.extend_from_slice(b"\r\nDate: ");
    write_date(out);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Each word with a capital.
fn write_name(name: &str, out: &mut Vec<u8>) {
    let mut begins = true;
    for byte in name.bytes() {
        out.push(if begins { byte.to_ascii_uppercase() } else { byte });
        begins = byte == b'-';
    }
}

thread_local! {
    /// A second, and how it is written.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn write_date(out: &mut Vec<u8>) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(known, text)| {
        if *known != second || text.is_empty() {
            *known = second;
            *text = HttpDate::from(now).to_string();
        }
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;
    use crate::http::answer;

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

    #[test]
    fn heads_are_those_of_hyper() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let (head, _) = answer(StatusCode::GATEWAY_TIMEOUT, headers, "{}".into()).into_parts();
        let mut out = Vec::new();
        write_head(&head, 1234, true, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (known, date) = text.split_once("Date: ").unwrap();
        let expected = "HTTP/1.1 504 Gateway Timeout\r\nContent-Type: application/json\r\nContent-Length: 1234\r\n\
            Connection: close\r\n";
        assert_eq!(known, expected);
        assert!(date.ends_with(" GMT\r\n\r\n") && date.len() == 33, "{date}");
    }
}

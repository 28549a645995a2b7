//! Writes the head of an answer, as hyper does.

use std::cell::RefCell;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, StatusCode};
use httpdate::HttpDate;

/// Writes the beginning of a head, which is the same for all answers with this status and these headers.
pub fn begin_head(status: StatusCode, headers: &HeaderMap, out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    for (name, value) in headers {
        out.extend_from_slice(b"\r\n");
        write_name(name.as_str(), out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
    }
}

/// Writes the rest of a head, for a body of this size. `last` says whether the connection ends after it.
pub fn end_head(size: usize, last: bool, now: Instant, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\nContent-Length: ");
    out.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
    if last {
        out.extend_from_slice(b"\r\nConnection: close");
    }
    out.extend_from_slice(b"\r\nDate: ");
    write_date(now, out);
    out.extend_from_slice(b"\r\n\r\n");
}

/// Writes the name of a header, with a capital letter at the beginning of each word.
fn write_name(name: &str, out: &mut Vec<u8>) {
    let mut begins = true;
    for byte in name.bytes() {
        out.push(if begins { byte.to_ascii_uppercase() } else { byte });
        begins = byte == b'-';
    }
}

thread_local! {
    /// The current second as text, and the time when it ends.
    static DATE: RefCell<Option<(Instant, String)>> = const { RefCell::new(None) };
}

fn write_date(now: Instant, out: &mut Vec<u8>) {
    DATE.with_borrow_mut(|date| {
        if date.as_ref().is_none_or(|(end, _)| now >= *end) {
            let time = SystemTime::now();
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            let left = Duration::from_secs(1) - Duration::from_nanos(since.subsec_nanos().into());
            *date = Some((now + left, HttpDate::from(time).to_string()));
        }
        out.extend_from_slice(date.as_ref().map_or(&[][..], |(_, text)| text.as_bytes()));
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn heads_are_those_of_hyper() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        let mut out = Vec::new();
        begin_head(StatusCode::GATEWAY_TIMEOUT, &headers, &mut out);
        end_head(1234, true, Instant::now(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let (known, date) = text.split_once("Date: ").unwrap();
        let expected = "HTTP/1.1 504 Gateway Timeout\r\nContent-Type: application/json\r\nContent-Length: 1234\r\n\
            Connection: close\r\n";
        assert_eq!(known, expected);
        assert!(date.ends_with(" GMT\r\n\r\n") && date.len() == 33, "{date}");
    }

    #[test]
    fn the_date_changes_with_the_second() {
        let date = |after| {
            let mut out = Vec::new();
            write_date(after, &mut out);
            httpdate::parse_http_date(std::str::from_utf8(&out).unwrap()).unwrap()
        };
        let now = Instant::now();
        let (first, later) = (date(now), date(now + Duration::from_secs(1)));
        assert!(later >= first && SystemTime::now().duration_since(later).unwrap() < Duration::from_secs(2));
        // The date was written again because the second had passed.
        DATE.with_borrow(|date| assert!(date.as_ref().is_some_and(|(end, _)| *end > now + Duration::from_secs(1))));
    }
}

//! Writes the head of an answer, as hyper does.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use httpdate::HttpDate;

/// The head of an answer, as hyper writes it.
pub fn write_head(head: &http::response::Parts, size: usize, last: bool, out: &mut Vec<u8>) {
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

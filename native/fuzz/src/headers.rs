//! Request headers: they are read as the simplest parser of gRPC's grammar reads them, and the text of any status can
//! be read back.

use std::time::Duration;

use headrace_native::fuzzing::{CallHeaders, Encoding, Status, decode_binary, encode_binary};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::allocation::at_most;

const NAMES: [&str; 5] = ["grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "content-type", "x-bin"];

/// Parses lines, whose first byte selects the header.
pub fn check(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((first, value)) = line.split_first() else { continue };
        let name = HeaderName::from_static(NAMES[usize::from(*first) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    // An error's text may repeat a header, percent-encoded as three bytes for each byte.
    at_most(16 * data.len() + 1024, || read(&headers));
    if let Ok(text) = std::str::from_utf8(data) {
        travels(text);
    }
    binary(data);
}

fn read(headers: &HeaderMap) {
    let said = CallHeaders::of(headers);
    assert_eq!(said.timeout.map_err(|status| status.code), plainest_timeout(headers));
    let named = headers.get("grpc-encoding").map_or(&b"identity"[..], HeaderValue::as_bytes);
    let known = matches!(named, b"identity" | b"deflate" | b"gzip");
    assert_eq!(said.encoding.is_ok(), known);
    let agreed = Encoding::of_response(headers, Encoding::Gzip);
    let accepted = headers
        .get_all("grpc-accept-encoding")
        .iter()
        .any(|value| value.as_bytes().split(|byte| *byte == b',').any(|name| name.trim_ascii() == b"gzip"));
    assert_eq!(agreed == Encoding::Gzip, accepted);
    let kind = headers.get("content-type").map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let says = kind.is_some_and(|kind| match kind.strip_prefix("application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with(['+', ';']),
        None => false,
    });
    assert_eq!(said.is_grpc, says);
}

/// The simplest parser of a timeout: at most eight digits and a unit, converted to nanoseconds.
fn plainest_timeout(headers: &HeaderMap) -> Result<Option<Duration>, u8> {
    const MALFORMED: u8 = 13;
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let text = value.to_str().map_err(|_| MALFORMED)?;
    let unit = text.chars().last().ok_or(MALFORMED)?;
    let nanoseconds: u128 = match unit {
        'H' => 3_600_000_000_000,
        'M' => 60_000_000_000,
        'S' => 1_000_000_000,
        'm' => 1_000_000,
        'u' => 1_000,
        'n' => 1,
        _ => return Err(MALFORMED),
    };
    let digits = &text[..text.len() - 1];
    if digits.len() > 8 || digits.contains(|digit: char| !digit.is_ascii_digit()) {
        return Err(MALFORMED);
    }
    let count: u128 = digits.parse().map_err(|_| MALFORMED)?;
    let total = count * nanoseconds;
    Ok(Some(Duration::new((total / 1_000_000_000) as u64, (total % 1_000_000_000) as u32)))
}

/// A client that undoes the percent-encoding reads the original text of a status.
fn travels(text: &str) {
    let trailers = at_most(8 * text.len() + 1024, || Status::new(13, text).trailers());
    let sent = trailers.get("grpc-message").map_or(&b""[..], HeaderValue::as_bytes);
    assert!(sent.iter().all(|byte| (b' '..=b'~').contains(byte)));
    assert_eq!(percent_decoded(sent), text.as_bytes());
}

fn percent_decoded(mut sent: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some((first, rest)) = sent.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(&rest[..2]).expect("two digits follow");
            text.push(u8::from_str_radix(digits, 16).expect("they are hexadecimal"));
            sent = &rest[2..];
        } else {
            text.push(*first);
            sent = rest;
        }
    }
    text
}

fn binary(data: &[u8]) {
    assert_eq!(decode_binary(encode_binary(data).as_bytes()).as_deref(), Some(data));
    at_most(data.len() + 64, || drop(decode_binary(data)));
}

//! The head of a request: its path, its deadline and its metadata.

use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
static GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
static TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
static AGENT: HeaderValue = HeaderValue::from_static(concat!("headrace-native/", env!("CARGO_PKG_VERSION")));

/// The largest number that a timeout's eight digits can express.
const MOST: u128 = 99_999_999;

/// The part of the URI of requests that all calls of a channel share.
pub struct Origin {
    pub scheme: Scheme,
    pub authority: Authority,
}

/// The head of a call: `left` is the time until its deadline, `failures` the number of earlier attempts.
pub fn head(
    origin: &Origin,
    path: &PathAndQuery,
    metadata: &HeaderMap,
    left: Option<Duration>,
    failures: u32,
) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(origin, path);
    let headers = request.headers_mut();
    headers.reserve(5 + metadata.len());
    headers.insert(TE, TRAILERS.clone());
    headers.insert(CONTENT_TYPE, GRPC.clone());
    headers.insert(USER_AGENT, AGENT.clone());
    if let Some(left) = left {
        headers.insert(&GRPC_TIMEOUT, timeout(left));
    }
    if failures > 0 {
        headers.insert(&ATTEMPTS, HeaderValue::from(failures));
    }
    for (name, value) in metadata {
        headers.append(name, value.clone());
    }
    request
}

fn uri(origin: &Origin, path: &PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(origin.scheme.clone());
    parts.authority = Some(origin.authority.clone());
    parts.path_and_query = Some(path.clone());
    // Cannot fail, since a URI consists of these three parts.
    Uri::from_parts(parts).unwrap_or_default()
}

/// The deadline in the smallest unit in which it fits, rounded up to three digits, as gRPC's C core does.
///
/// So calls with the same timeout send the same text, which stays in the header tables of client and server, and a
/// server waits at most 1% longer. The client itself ends a call at the exact time.
fn timeout(left: Duration) -> HeaderValue {
    let units = [(1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M')];
    let count = |size: u128| left.as_nanos().div_ceil(size);
    let found = units.into_iter().find(|(size, _)| count(*size) <= MOST);
    let (size, letter) = found.unwrap_or((3_600_000_000_000, 'H'));
    let count = rounded(count(size)).min(MOST);
    // Digits and a letter are always a valid header value.
    HeaderValue::try_from(format!("{count}{letter}")).unwrap_or(TRAILERS.clone())
}

/// A number, rounded up to three digits.
fn rounded(count: u128) -> u128 {
    let step = 10_u128.pow(count.max(1).ilog10().saturating_sub(2));
    count.div_ceil(step) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts() {
        for (left, expected) in [
            (Duration::from_nanos(1), "1u"),
            (Duration::from_millis(20), "20000u"),
            (Duration::from_micros(19_998), "20000u"),
            (Duration::from_micros(123_401), "124000u"),
            (Duration::from_nanos(9_999_999_001), "10000000u"),
            (Duration::from_micros(999), "999u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(200_000), "200000S"),
            (Duration::from_secs(400_000_000), "6670000M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout(left), expected);
        }
    }

    #[test]
    fn the_headers_that_are_sent() {
        let metadata = HeaderMap::from_iter([(HeaderName::from_static("a"), HeaderValue::from_static("1"))]);
        let path = PathAndQuery::from_static("/s/m");
        let origin = Origin { scheme: Scheme::HTTPS, authority: Authority::from_static("h:1") };
        let head = head(&origin, &path, &metadata, Some(Duration::from_secs(1)), 2);
        assert_eq!(head.uri(), "https://h:1/s/m");
        assert_eq!(head.headers()["grpc-timeout"], "1000000u");
        assert_eq!(head.headers()["grpc-previous-rpc-attempts"], "2");
        assert_eq!(head.headers()["a"], "1");
    }
}

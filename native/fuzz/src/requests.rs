//! The plain requests of an HTTP/1.1 connection: each is parsed as if it were the connection's first.

use headrace_native::fuzzing::{Next, Requests};

use crate::allocation::at_most;

/// Reads one request after the other, until one is incomplete or not plain.
pub fn check(data: &[u8]) {
    let mut requests = Requests::default();
    let mut rest = data;
    while let Some(size) = at_most(16 * data.len() + 1024, || agreed(&mut requests, rest)) {
        rest = &rest[size..];
    }
}

/// The size of the request at the beginning of some bytes, if it is complete. Checks prefixes of the bytes, too.
fn agreed(requests: &mut Requests, bytes: &[u8]) -> Option<usize> {
    for end in [bytes.len() / 3, bytes.len() / 2] {
        assert_eq!(requests.next(&bytes[..end]), Requests::default().next(&bytes[..end]));
    }
    let mut first = Requests::default();
    let next = requests.next(bytes);
    assert_eq!(next, first.next(bytes));
    match next {
        Next::Request(request, size) => {
            assert!(request.body.len() < size && bytes[..size].ends_with(request.body));
            Some(size)
        }
        Next::Partial(size) => {
            assert!(size == 0 || size > bytes.len());
            None
        }
        Next::Unusual => None,
    }
}

//! How the client of a connection identifies itself: by its certificate, and by the credentials of each call.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use ring::digest::{Context, SHA256};

use super::verdict::Verdict;
use crate::http2::Stream;

/// A cryptographic digest of a certificate and the bytes of an authorization header.
pub type Digest = [u8; 32];

/// The client at the other end of a connection.
#[derive(Default)]
pub struct Identity {
    /// The client's certificate, in DER; empty if the client has sent none.
    certificate: Vec<u8>,
    /// The credentials of the last call. Most calls of a connection have the same ones.
    last: Mutex<Option<Last>>,
}

/// The credentials of a connection's last call, and the verdict about them.
pub struct Last {
    /// The authorization header, if there was one.
    header: Option<HeaderValue>,
    pub digest: Digest,
    /// The verdict about the call's model; None if there was none.
    pub found: Option<Found>,
}

/// A verdict, which is in effect as long as `verdicts::Verdicts` has had exactly this number of
/// changes.
pub struct Found {
    pub verdict: Arc<Verdict>,
    pub changes: u64,
}

impl Identity {
    pub fn of(stream: &Stream) -> Self {
        Self { certificate: stream.certificate().unwrap_or_default().to_vec(), last: Mutex::default() }
    }

    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The credentials of a call, which are kept as those of the last call; None for several authorization headers,
    /// since it is unclear which one counts.
    pub fn known(&self, headers: &HeaderMap) -> Option<MappedMutexGuard<'_, Last>> {
        // Compares each name, since a hash lookup is slower.
        let mut shown = headers.iter().filter(|(name, _)| *name == AUTHORIZATION).map(|(_, value)| value);
        let header = shown.next();
        if shown.next().is_some() {
            return None;
        }
        let mut last = self.last.lock();
        if last.as_ref().is_some_and(|last| !equal(last.header.as_ref(), header)) {
            *last = None;
        }
        Some(MutexGuard::map(last, |last| last.get_or_insert_with(|| Last::new(&self.certificate, header))))
    }
}

impl Last {
    fn new(certificate: &[u8], header: Option<&HeaderValue>) -> Self {
        let digest = digest(certificate, header.map_or(b"", HeaderValue::as_bytes));
        Self { header: header.cloned(), digest, found: None }
    }
}

/// The digest of a certificate and an authorization header. An empty header counts as missing.
pub fn digest(certificate: &[u8], authorization: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(&certificate.len().to_le_bytes());
    context.update(certificate);
    context.update(authorization);
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// Whether two headers are equal. The time of the comparison does not depend on the position of the first difference,
/// since several callers may share a connection, behind a proxy. If the client refers to an entry of HPACK's table, as
/// clients in Go and Java do, both headers are the same bytes in memory.
fn equal(one: Option<&HeaderValue>, other: Option<&HeaderValue>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return one.is_none() && other.is_none() };
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if std::ptr::eq(one, other) {
        return true;
    }
    let differs = one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_static(value))).collect()
    }

    fn digest_of(identity: &Identity, values: &[&'static str]) -> Option<Digest> {
        identity.known(&with(values)).map(|known| known.digest)
    }

    #[test]
    fn digests_tell_credentials_apart() {
        let identity = Identity::default();
        let (none, one) = (digest_of(&identity, &[]), digest_of(&identity, &["a"]));
        assert!(none.is_some() && none != one);
        assert_eq!(digest_of(&identity, &["a"]), one);
        assert_ne!(digest_of(&identity, &["b"]), one);
        assert_ne!(digest_of(&identity, &["aa"]), one);
        assert_eq!(digest_of(&identity, &["a"]), one);
        assert_eq!(digest_of(&identity, &[]), none);
        let secured = Identity { certificate: b"c".to_vec(), last: Mutex::default() };
        assert_ne!(digest_of(&secured, &["a"]), one);
    }

    #[test]
    fn several_headers_are_for_python() {
        assert_eq!(digest_of(&Identity::default(), &["a", "a"]), None);
    }
}

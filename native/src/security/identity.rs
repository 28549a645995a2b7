//! How the client of a connection identifies itself: by its certificate, and by the credentials of each call.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};

use crate::http2::Stream;

/// A cryptographic digest of a certificate and the bytes of an authorization header.
pub type Digest = [u8; 32];

/// The client at the other end of a connection.
#[derive(Default)]
pub struct Identity {
    /// The client's certificate, in DER; empty if the client has sent none.
    certificate: Vec<u8>,
    /// The header of the last call, and its digest. Most calls of a connection have the same header.
    last: Mutex<Option<(HeaderValue, Digest)>>,
}

impl Identity {
    pub fn of(stream: &Stream) -> Self {
        Self { certificate: stream.certificate().unwrap_or_default().to_vec(), last: Mutex::default() }
    }

    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The digest of a call's credentials; None for several authorization headers, since it is unclear which one
    /// counts.
    pub fn digest(&self, headers: &HeaderMap) -> Option<Digest> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = shown.next() else { return Some(digest(&self.certificate, b"")) };
        if shown.next().is_some() {
            return None;
        }
        let mut last = self.last.lock();
        match &*last {
            Some((known, digest)) if equal(known, header) => Some(*digest),
            _ => {
                let digest = digest(&self.certificate, header.as_bytes());
                *last = Some((header.clone(), digest));
                Some(digest)
            }
        }
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

/// Compares in a time that does not depend on where the first difference is, since several callers may share a
/// connection, behind a proxy. If the client refers to an entry of HPACK's table, as clients in Go and Java do, both
/// are the same bytes in memory.
fn equal(one: &HeaderValue, other: &HeaderValue) -> bool {
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

    #[test]
    fn digests_tell_credentials_apart() {
        let identity = Identity::default();
        let (none, one) = (identity.digest(&with(&[])), identity.digest(&with(&["a"])));
        assert!(none.is_some() && none != one);
        assert_eq!(identity.digest(&with(&["a"])), one);
        assert_ne!(identity.digest(&with(&["b"])), one);
        assert_ne!(identity.digest(&with(&["aa"])), one);
        assert_eq!(identity.digest(&with(&["a"])), one);
        let secured = Identity { certificate: b"c".to_vec(), last: Mutex::default() };
        assert_ne!(secured.digest(&with(&["a"])), one);
    }

    #[test]
    fn several_headers_are_for_python() {
        assert_eq!(Identity::default().digest(&with(&["a", "a"])), None);
    }
}

//! Decides by the headers whether a request is traced, before anything of it is decoded.

use std::time::Instant;

use http::{HeaderMap, HeaderValue};
use parking_lot::Mutex;

use super::Parent;

/// The header that tells Python that a request is traced. If a client sends it, it is removed.
const MARK: &str = "headrace-traced";

/// W3C Trace Context's header with the caller's span.
pub const PARENT: &str = "traceparent";

/// Samples a share of all requests, and those whose clients trace them, up to a number per second.
pub struct Sampler {
    ratio: f64,
    rate: f64,
    /// How many more requests may be sampled, and when that number was computed.
    room: Mutex<(f64, Instant)>,
}

impl Sampler {
    pub fn new(ratio: f64, rate: f64) -> Self {
        Self { ratio, rate, room: Mutex::new((rate, Instant::now())) }
    }

    /// Decides whether a request is traced, and marks its headers if so. Returns None for a request that is not traced;
    /// otherwise the caller's span, or Some(None) if the caller has none.
    pub fn mark(&self, headers: &mut HeaderMap) -> Option<Option<Parent>> {
        let (mut parent, mut forged) = (None, false);
        // All names are compared, since two hash lookups would take longer.
        for (name, value) in &*headers {
            match name.as_str() {
                PARENT if parent.is_none() => parent = Parent::of(value),
                MARK => forged = true,
                _ => {}
            }
        }
        if forged {
            headers.remove(MARK);
        }
        let wanted = parent.map_or_else(|| fastrand::f64() < self.ratio, |parent: Parent| parent.sampled);
        if !(wanted && self.has_room(Instant::now())) {
            return None;
        }
        headers.insert(MARK, HeaderValue::from_static("1"));
        Some(parent)
    }

    fn has_room(&self, now: Instant) -> bool {
        let mut room = self.room.lock();
        let grown = room.0 + now.duration_since(room.1).as_secs_f64() * self.rate;
        *room = (grown.min(self.rate.max(1.0)), now);
        let takes = room.0 >= 1.0;
        if takes {
            room.0 -= 1.0;
        }
        takes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn traced(sampler: &Sampler, parent: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(MARK, HeaderValue::from_static("1"));
        if let Some(parent) = parent {
            headers.insert(PARENT, HeaderValue::from_static(parent));
        }
        let traced = sampler.mark(&mut headers).is_some();
        assert_eq!(headers.contains_key(MARK), traced);
        traced
    }

    #[test]
    fn callers_that_trace_decide() {
        let (all, none) = (Sampler::new(1.0, 1e9), Sampler::new(0.0, 1e9));
        let with_flags = |flags| match flags {
            1 => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            _ => "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        };
        assert!(traced(&none, Some(with_flags(1))));
        assert!(!traced(&all, Some(with_flags(0))));
        assert!(traced(&all, None));
        assert!(!traced(&none, None));
        assert!(!traced(&none, Some("01"))); // no traceparent
    }

    #[test]
    fn a_share_of_the_others_is_taken() {
        let sampler = Sampler::new(0.1, 1e9);
        let taken = (0..10_000).filter(|_| traced(&sampler, None)).count();
        assert!((800..1200).contains(&taken), "{taken}");
    }

    #[test]
    fn no_more_than_the_limit_per_second() {
        let (sampler, now) = (Sampler::new(1.0, 10.0), Instant::now() + Duration::from_secs(60));
        let at = |seconds| now + Duration::from_secs_f64(seconds);
        assert_eq!((0..100).filter(|_| sampler.has_room(at(0.0))).count(), 10);
        assert_eq!((0..100).filter(|_| sampler.has_room(at(0.5))).count(), 5);
    }
}

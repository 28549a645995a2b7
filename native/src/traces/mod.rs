//! Traced calls: decides which are sampled, records those that are answered without Python, and encodes the spans of
//! all of them, which a Python thread sends later.

mod batch;
mod kinds;
mod parent;
mod record;
mod sampler;
mod span;
mod spans;
mod tree;

use std::sync::Arc;

use http::HeaderMap;
use parking_lot::Mutex;

use self::parent::Parent;
pub use self::record::{Begun, Method, Record, Trace};
use self::sampler::Sampler;
pub use self::spans::Spans;

/// The headers of W3C Trace Context: the caller's span, and the states of other tracing systems.
pub const CONTEXT: [&str; 2] = [sampler::PARENT, record::STATE];

/// The maximum number of records that may wait for their spans; further ones are dropped.
const MOST: usize = 4096;

/// Samples the calls of a server, and keeps the records of those that have ended. May be used on any thread.
pub struct Traces {
    sampler: Sampler,
    ended: Mutex<Vec<Record>>,
}

impl Traces {
    /// `ratio` is the share of the requests without a traceparent, `rate` the maximum number of requests per second.
    pub fn new(ratio: f64, rate: f64) -> Self {
        Self { sampler: Sampler::new(ratio, rate), ended: Mutex::default() }
    }

    /// Begins the trace of a request that has just arrived, if it is to be traced. Marks the headers, so that Python
    /// records the request if it is given to Python.
    pub fn begin(self: &Arc<Self>, headers: &mut HeaderMap, method: impl FnOnce() -> Method) -> Option<Arc<Begun>> {
        let parent = self.sampler.mark(headers)?;
        Some(Arc::new(Begun::new(self.clone(), parent, headers, method())))
    }

    /// Removes and returns the records that were added since the previous call.
    pub fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.ended.lock())
    }

    fn add(&self, record: Record) {
        let mut ended = self.ended.lock();
        if ended.len() < MOST {
            ended.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_records_wait_than_allowed() {
        let traces = Arc::new(Traces::new(1.0, 1e9));
        for _ in 0..MOST + 1 {
            let begun = traces.begin(&mut HeaderMap::new(), || Method::Rpc("a/b".into())).expect("all are traced");
            begun.trace("m".into(), (std::time::Instant::now(), 1.0)).end(0);
        }
        assert_eq!(traces.take().len(), MOST);
        assert!(traces.take().is_empty());
    }
}

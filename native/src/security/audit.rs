//! The audit log's lines about calls that end without Python. Python writes these lines into the file.
//!
//! A line has the format of `security/audit.py`. It is added before the caller gets its answer, and Python takes all
//! waiting lines at once.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use parking_lot::{Condvar, Mutex};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::json::write_compact_string;

/// The maximum number of bytes of lines that may wait. Beyond that, calls are left to Python, which writes each line
/// before the call ends.
const MOST: usize = 16 << 20;

/// The names of gRPC's codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Lines that wait for Python. May be used on any thread.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct AuditLines(Arc<Lines>);

#[derive(Default)]
pub struct Lines {
    waiting: Mutex<Waiting>,
    come: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: BytesMut,
    closed: bool,
}

#[pymethods]
impl AuditLines {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Waits for lines, and returns all of them, each with its line feed. Returns None when this object has been closed
    /// and all lines have been taken.
    fn take<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        let text = py.detach(|| self.0.take());
        (!text.is_empty()).then(|| PyBytes::new(py, &text))
    }

    /// Ends all waits for lines.
    fn close(&self) {
        self.0.waiting.lock().closed = true;
        self.0.come.notify_all();
    }
}

impl AuditLines {
    pub fn lines(&self) -> &Arc<Lines> {
        &self.0
    }
}

impl Lines {
    /// Whether so many lines wait that no more can be added.
    pub fn is_full(&self) -> bool {
        self.waiting.lock().text.len() > MOST
    }

    fn take(&self) -> BytesMut {
        let mut waiting = self.waiting.lock();
        while waiting.text.is_empty() && !waiting.closed {
            self.come.wait(&mut waiting);
        }
        waiting.text.split()
    }
}

/// The names of a caller and a model in the log, both as JSON.
pub struct Names {
    pub who: String,
    pub model: String,
}

/// The line about one call, which is written when the call ends.
pub struct Record {
    lines: Arc<Lines>,
    about: BytesMut,
    rows: usize,
    came: Instant,
}

impl Record {
    /// Creates the record of a call that has just arrived. `peer` is the client's address, or empty if that is not
    /// known.
    pub fn new(lines: &Arc<Lines>, names: &Names, method: &str, peer: &str, rows: usize) -> Self {
        let mut about = BytesMut::with_capacity(256);
        about.put_slice(b"\"who\": ");
        about.put_slice(names.who.as_bytes());
        about.put_slice(b", \"peer\": ");
        if peer.is_empty() {
            about.put_slice(b"null");
        } else {
            write_compact_string(peer, &mut about);
        }
        about.put_slice(b", \"method\": ");
        write_compact_string(method, &mut about);
        about.put_slice(b", \"model\": ");
        about.put_slice(names.model.as_bytes());
        Self { lines: lines.clone(), about, rows, came: Instant::now() }
    }

    /// Records that none of the call's rows has been run.
    pub fn without_rows(&mut self) {
        self.rows = 0;
    }

    /// Records that the call has ended with this code.
    pub fn write(self, code: u8) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = self.came.elapsed().as_secs_f64() * 1e3;
        let code = CODES.get(usize::from(code)).unwrap_or(&"UNKNOWN");
        let about = std::str::from_utf8(&self.about).unwrap_or_default(); // `about` was made of strings
        let line = format!(
            "{{\"ts\": \"{}\", {about}, \"rows\": {}, \"code\": \"{code}\", \"ms\": {milliseconds:.3}}}\n",
            timestamp(now),
            self.rows
        );
        let mut waiting = self.lines.waiting.lock();
        let first = waiting.text.is_empty();
        waiting.text.put_slice(line.as_bytes());
        drop(waiting);
        if first {
            self.lines.come.notify_one();
        }
    }
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A time since the epoch in UTC, as ISO 8601 writes it.
fn timestamp(since_epoch: Duration) -> String {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + since_epoch); // such as "Sun, 06 Nov 1994 08:49:37 GMT"
    let month = MONTHS.iter().position(|name| *name == &date[8..11]).map_or(0, |at| at + 1);
    let (day, year, time) = (&date[5..7], &date[12..16], &date[17..25]);
    format!("{year}-{month:02}-{day}T{time}.{:06}Z", since_epoch.subsec_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc() {
        let known = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (68_169_600_000_001, "1972-02-29T00:00:00.000001Z"),
            (951_868_799_000_000, "2000-02-29T23:59:59.000000Z"),
            (951_868_800_000_000, "2000-03-01T00:00:00.000000Z"),
            (1_767_225_599_999_999, "2025-12-31T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ];
        for (micros, expected) in known {
            assert_eq!(timestamp(Duration::from_micros(micros)), expected);
        }
    }

    #[test]
    fn a_line_is_taken_once_and_ends_a_wait() {
        let lines = Arc::new(Lines::default());
        let names = Names { who: "\"key:shop\"".into(), model: "\"m\"".into() };
        let taker = lines.clone();
        let taken = std::thread::spawn(move || taker.take());
        Record::new(&lines, &names, "a/Predict", "unix:\"", 3).write(0);
        let text = String::from_utf8(taken.join().unwrap().to_vec()).unwrap();
        assert!(text.starts_with("{\"ts\": \"2") && text.ends_with("}\n"), "{text}");
        let about =
            r#", "who": "key:shop", "peer": "unix:\"", "method": "a/Predict", "model": "m", "rows": 3, "code": "OK","#;
        assert!(text.contains(about), "{text}");
        AuditLines(lines.clone()).close();
        assert!(lines.take().is_empty());
    }
}

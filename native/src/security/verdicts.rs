//! Which clients may run which models, as Python has decided, until something that the decision depends on has changed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::RwLock;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::account::Account;
use super::admitted::Admitted;
use super::audit::{AuditLines, Lines, Names, Record};
use super::identity::{Digest, Identity, digest};

/// The maximum number of kept verdicts. When it would be exceeded, all verdicts are dropped, and Python is asked again.
const MOST: usize = 1 << 16;

/// Python's verdict about a client and a model.
struct Verdict {
    /// When the credentials expire; None for never.
    expires: Option<Instant>,
    account: Option<Py<Account>>,
    /// Whether its calls have low priority.
    low: bool,
    /// The text of the refusal if the account admits no call.
    exhausted: String,
    names: Names,
}

/// A call whose caller wants to run a model.
pub struct Asked<'a> {
    pub identity: &'a Identity,
    pub headers: &'a HeaderMap,
    pub model: &'a str,
    pub rows: usize,
    /// The method's name in the audit log.
    pub method: &'a str,
    /// The caller's address; empty if it is not known.
    pub peer: &'a str,
}

/// Whether a call is admitted, by Python's verdict about its caller.
pub enum Admission {
    /// The call is admitted; the second value says whether it has low priority.
    Admitted(Admitted, bool),
    /// Its caller has reached a limit, and may try again after this many seconds.
    Exhausted { text: String, seconds: f64, refused: Admitted },
    /// Python must decide.
    Unknown,
}

type Models = FxHashMap<Vec<u8>, Arc<Verdict>>;

#[derive(Default)]
struct Table {
    /// How often all verdicts have been dropped.
    generation: u64,
    count: usize,
    callers: FxHashMap<Digest, Models>,
}

/// The verdicts that allow calls. Any thread.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct Verdicts {
    table: RwLock<Table>,
    /// Where the audit log's lines go; None if there is no audit log.
    lines: Option<Arc<Lines>>,
}

#[pymethods]
impl Verdicts {
    #[new]
    fn new(lines: Option<&AuditLines>) -> Self {
        Self { table: RwLock::default(), lines: lines.map(|own| own.lines().clone()) }
    }

    /// Must be read before the facts that a verdict is based on.
    #[getter]
    fn generation(&self) -> u64 {
        self.table.read().generation
    }

    /// Allows calls with these credentials to run a model, for a number of seconds or forever. Does nothing if all
    /// verdicts have been dropped since `generation` was read.
    #[pyo3(signature = (generation, credentials, model, *, seconds, account, low, exhausted, names))]
    #[expect(clippy::too_many_arguments, reason = "Python passes these by name")]
    fn put(
        &self,
        generation: u64,
        credentials: (Vec<u8>, Vec<u8>),
        model: String,
        seconds: Option<f64>,
        account: Option<Py<Account>>,
        low: bool,
        exhausted: String,
        names: (String, String),
    ) {
        let (certificate, authorization) = credentials;
        let expires = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let expires = expires.and_then(|left| Instant::now().checked_add(left));
        let names = Names { who: names.0, model: names.1 };
        let verdict = Arc::new(Verdict { expires, account, low, exhausted, names });
        let mut table = self.table.write();
        if table.generation != generation {
            return;
        }
        if table.count >= MOST {
            table.callers.clear();
            table.count = 0;
        }
        let models = table.callers.entry(digest(&certificate, &authorization)).or_default();
        if models.insert(model.into_bytes(), verdict).is_none() {
            table.count += 1;
        }
    }

    /// Drops all verdicts, because a key, the policy, or what tokens are checked against has changed.
    fn clear(&self) {
        let mut table = self.table.write();
        let before = std::mem::take(&mut table.callers);
        table.generation += 1;
        table.count = 0;
        drop(table);
        drop(before);
    }
}

impl Verdicts {
    /// Admits a call.
    pub fn admit(&self, asked: &Asked<'_>) -> Admission {
        let Some(verdict) = self.find(asked) else { return Admission::Unknown };
        if self.lines.as_ref().is_some_and(|lines| lines.is_full()) {
            return Admission::Unknown;
        }
        let admitted = if verdict.expires.is_none() && verdict.account.is_none() {
            Ok(Admitted::default())
        } else {
            let now = Instant::now();
            if verdict.expires.is_some_and(|expires| now >= expires) {
                return Admission::Unknown;
            }
            let account = verdict.account.as_ref();
            account.map_or_else(|| Ok(Admitted::default()), |account| account.get().admitted(asked.rows, now))
        };
        match admitted {
            Ok(admitted) => {
                let record = self.record(asked, &verdict, asked.rows);
                Admission::Admitted(admitted.recorded(record), verdict.low)
            }
            Err(seconds) => {
                let refused = Admitted::default().recorded(self.record(asked, &verdict, 0));
                Admission::Exhausted { text: verdict.exhausted.clone(), seconds, refused }
            }
        }
    }

    /// The audit log's record of a call of which this many rows are run.
    fn record(&self, asked: &Asked<'_>, verdict: &Verdict, rows: usize) -> Option<Record> {
        self.lines.as_ref().map(|lines| Record::new(lines, &verdict.names, asked.method, asked.peer, rows))
    }

    fn find(&self, asked: &Asked<'_>) -> Option<Arc<Verdict>> {
        let digest = asked.identity.digest(asked.headers)?;
        Some(self.table.read().callers.get(&digest)?.get(asked.model.as_bytes())?.clone())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::AUTHORIZATION;

    use super::*;

    fn shown(header: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(header).expect("it is plain"))])
    }

    fn admit(verdicts: &Verdicts, headers: &HeaderMap, model: &str) -> Admission {
        let identity = &Identity::default();
        verdicts.admit(&Asked { identity, headers, model, rows: 1, method: "", peer: "" })
    }

    fn put(verdicts: &Verdicts, generation: u64, header: &str, seconds: Option<f64>) {
        let credentials = (Vec::new(), header.as_bytes().to_vec());
        verdicts.put(generation, credentials, "m".into(), seconds, None, true, String::new(), Default::default());
    }

    #[test]
    fn a_verdict_is_of_one_caller_and_one_model() {
        let verdicts = Verdicts::default();
        put(&verdicts, 0, "Bearer a", None);
        let low = |header, model| match admit(&verdicts, &shown(header), model) {
            Admission::Admitted(_, low) => Some(low),
            _ => None,
        };
        assert_eq!(low("Bearer a", "m"), Some(true));
        assert_eq!((low("Bearer b", "m"), low("Bearer a", "n"), low("", "m")), (None, None, None));
        verdicts.clear();
        assert_eq!(low("Bearer a", "m"), None);
    }

    #[test]
    fn a_verdict_ends_with_its_credentials() {
        let verdicts = Verdicts::default();
        put(&verdicts, 0, "Bearer a", Some(0.0));
        put(&verdicts, 0, "Bearer b", Some(60.0));
        let admitted = |header| matches!(admit(&verdicts, &shown(header), "m"), Admission::Admitted(..));
        assert!(!admitted("Bearer a") && admitted("Bearer b"));
    }

    #[test]
    fn a_verdict_of_before_a_change_is_not_kept() {
        let verdicts = Verdicts::default();
        let before = verdicts.generation();
        verdicts.clear();
        put(&verdicts, before, "Bearer a", None);
        assert!(matches!(admit(&verdicts, &shown("Bearer a"), "m"), Admission::Unknown));
    }

    /// Measures the time that the check adds to a call: `cargo test --release --no-default-features -- --ignored
    /// --nocapture cost`.
    #[test]
    #[ignore = "it measures"]
    fn cost() {
        const CALLS: u32 = 10_000;
        for size in [60, 850] {
            let (verdicts, identity) = (Verdicts::default(), &Identity::default());
            let header = format!("Bearer {}", "a".repeat(size));
            put(&verdicts, 0, &header, Some(3600.0));
            let headers = shown(&header);
            let asked = Asked { identity, headers: &headers, model: "m", rows: 1, method: "", peer: "" };
            let round = |_| {
                let began = Instant::now();
                (0..CALLS).for_each(|_| drop(verdicts.admit(&asked)));
                began.elapsed() / CALLS
            };
            println!("a header of {size} bytes: {:?} per call", (0..100).map(round).min());
        }
    }
}

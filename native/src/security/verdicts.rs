//! Python's decisions about which clients may run which models. They are kept until a fact that they depend on changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;
use parking_lot::RwLock;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use super::account::Account;
use super::admitted::Admitted;
use super::audit::{AuditLines, Lines, Names, Record};
use super::identity::{Digest, Found, Identity, digest};
use super::verdict::Verdict;

/// The maximum number of kept verdicts. When it would be exceeded, all verdicts are dropped, and Python is asked again.
const MOST: usize = 1 << 16;

/// The size in bytes above which a message is read here only if its caller is known.
pub const LARGE: usize = 64 << 10;

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
    /// When the call arrived.
    pub came: Instant,
}

/// Whether a call is admitted, by Python's verdict about its caller.
pub enum Admission {
    /// The call is admitted; the second value says whether it has low priority.
    Admitted(Admitted, bool),
    /// The caller has reached a limit, and may try again after this many seconds.
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

/// The verdicts that allow calls. May be used on any thread.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct Verdicts {
    table: RwLock<Table>,
    /// How often the table has changed. A verdict that a connection remembers is in effect until the next change.
    changes: AtomicU64,
    /// The destination of the audit log's lines; None if there is no audit log.
    lines: Option<Arc<Lines>>,
}

#[pymethods]
impl Verdicts {
    #[new]
    fn new(lines: Option<&AuditLines>) -> Self {
        Self { lines: lines.map(|own| own.lines().clone()), ..Self::default() }
    }

    /// How often all verdicts have been dropped. Must be read before the facts that a verdict is based on.
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
        let key = model.clone().into_bytes();
        let verdict = Arc::new(Verdict { model, expires, account, low, exhausted, names });
        let mut table = self.table.write();
        if table.generation != generation {
            return;
        }
        if table.count >= MOST {
            table.callers.clear();
            table.count = 0;
        }
        let models = table.callers.entry(digest(&certificate, &authorization)).or_default();
        if models.insert(key, verdict).is_none() {
            table.count += 1;
        }
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Drops all verdicts, because the keys, the policy, or the rules for tokens have changed.
    fn clear(&self) {
        let mut table = self.table.write();
        let before = std::mem::take(&mut table.callers);
        table.generation += 1;
        table.count = 0;
        self.changes.fetch_add(1, Ordering::Release);
        drop(table);
        drop(before);
    }
}

impl Verdicts {
    /// Admits a call.
    pub fn admit(&self, asked: &Asked<'_>) -> Admission {
        let Some(mut known) = asked.identity.known(asked.headers) else { return Admission::Unknown };
        // This is read before the table, which may change in between.
        let changes = self.changes.load(Ordering::Acquire);
        if let Some(Found { verdict, .. }) = known.found.as_ref().filter(|found| found.is(asked.model, changes)) {
            return self.admission(asked, verdict);
        }
        let verdict = self.find(&known.digest, asked.model);
        known.found = verdict.map(|verdict| Found { verdict, changes });
        known.found.as_ref().map_or(Admission::Unknown, |found| self.admission(asked, &found.verdict))
    }

    /// Whether Python has allowed any call with these credentials. It refuses others without reading their messages.
    pub fn knows(&self, identity: &Identity, headers: &HeaderMap) -> bool {
        identity.known(headers).is_some_and(|known| self.table.read().callers.contains_key(&known.digest))
    }

    fn admission(&self, asked: &Asked<'_>, verdict: &Verdict) -> Admission {
        if self.lines.as_ref().is_some_and(|lines| lines.is_full()) {
            return Admission::Unknown;
        }
        if verdict.expires.is_some_and(|expires| asked.came >= expires) {
            return Admission::Unknown;
        }
        let account = verdict.account.as_ref();
        let admitted = account.map_or_else(
            || Ok(Admitted::default()),
            |account| account.get().charged(asked.rows, asked.came).map(Admitted::charged),
        );
        match admitted {
            Ok(admitted) => {
                let record = self.record(asked, verdict, asked.rows);
                Admission::Admitted(admitted.recorded(record), verdict.low)
            }
            Err(seconds) => {
                let refused = Admitted::default().recorded(self.record(asked, verdict, 0));
                Admission::Exhausted { text: verdict.exhausted.clone(), seconds, refused }
            }
        }
    }

    /// The audit log's record of a call of which this many rows are run; None if there is no audit log.
    fn record(&self, asked: &Asked<'_>, verdict: &Verdict, rows: usize) -> Option<Record> {
        self.lines.as_ref().map(|lines| Record::new(lines, &verdict.names, asked.method, asked.peer, rows))
    }

    fn find(&self, digest: &Digest, model: &str) -> Option<Arc<Verdict>> {
        Some(self.table.read().callers.get(digest)?.get(model.as_bytes())?.clone())
    }
}

impl Found {
    /// Whether this verdict is about this model, and was stored after exactly this many changes.
    fn is(&self, model: &str, changes: u64) -> bool {
        self.changes == changes && self.verdict.model == model
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

    fn asked<'a>(identity: &'a Identity, headers: &'a HeaderMap, model: &'a str) -> Asked<'a> {
        Asked { identity, headers, model, rows: 1, method: "", peer: "", came: Instant::now() }
    }

    fn admit(verdicts: &Verdicts, headers: &HeaderMap, model: &str) -> Admission {
        verdicts.admit(&asked(&Identity::default(), headers, model))
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
    fn strangers_are_not_known() {
        let (verdicts, identity) = (Verdicts::default(), Identity::default());
        put(&verdicts, 0, "Bearer a", None);
        let mut several = shown("Bearer a");
        several.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert!(verdicts.knows(&identity, &shown("Bearer a")));
        assert!(!verdicts.knows(&identity, &shown("Bearer b")) && !verdicts.knows(&identity, &HeaderMap::new()));
        assert!(!verdicts.knows(&identity, &several));
        verdicts.clear();
        assert!(!verdicts.knows(&identity, &shown("Bearer a")));
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
    fn a_verdict_from_before_a_change_is_not_kept() {
        let verdicts = Verdicts::default();
        let before = verdicts.generation();
        verdicts.clear();
        put(&verdicts, before, "Bearer a", None);
        assert!(matches!(admit(&verdicts, &shown("Bearer a"), "m"), Admission::Unknown));
    }

    /// Whether a call of one connection has a low priority; None if no verdict admits it, so that Python decides.
    fn on_one_connection<'a>(verdicts: &'a Verdicts, header: &str) -> impl Fn(&str) -> Option<bool> + use<'a> {
        let (identity, headers) = (Identity::default(), shown(header));
        move |model| match verdicts.admit(&asked(&identity, &headers, model)) {
            Admission::Admitted(_, low) => Some(low),
            _ => None,
        }
    }

    #[test]
    fn a_connection_remembers_a_verdict_until_verdicts_change() {
        let verdicts = Verdicts::default();
        put(&verdicts, 0, "Bearer a", None);
        let low = on_one_connection(&verdicts, "Bearer a");
        assert_eq!((low("m"), low("m"), low("n"), low("m")), (Some(true), Some(true), None, Some(true)));
        let credentials = (Vec::new(), b"Bearer a".to_vec());
        verdicts.put(0, credentials, "m".into(), None, None, false, String::new(), Default::default());
        assert_eq!(low("m"), Some(false));
        verdicts.clear();
        assert_eq!((low("m"), low("m")), (None, None));
        put(&verdicts, 1, "Bearer a", None);
        assert_eq!(low("m"), Some(true));
    }

    #[test]
    fn a_connection_may_be_shared_by_several_callers() {
        let verdicts = Verdicts::default();
        put(&verdicts, 0, "Bearer a", None);
        let identity = Identity::default();
        let admitted = |header: &str| {
            let headers = if header.is_empty() { HeaderMap::new() } else { shown(header) };
            matches!(verdicts.admit(&asked(&identity, &headers, "m")), Admission::Admitted(..))
        };
        assert!(admitted("Bearer a") && !admitted("Bearer b") && admitted("Bearer a") && !admitted(""));
    }

    #[test]
    fn a_remembered_verdict_ends_with_its_credentials() {
        let verdicts = Verdicts::default();
        put(&verdicts, 0, "Bearer a", Some(60.0));
        let (identity, headers) = (Identity::default(), shown("Bearer a"));
        let admitted_at = |came| {
            let asked = Asked { came, ..asked(&identity, &headers, "m") };
            matches!(verdicts.admit(&asked), Admission::Admitted(..))
        };
        let now = Instant::now();
        assert!(admitted_at(now) && !admitted_at(now + Duration::from_secs(61)));
        put(&verdicts, 0, "Bearer a", Some(120.0));
        assert!(admitted_at(now + Duration::from_secs(61)));
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
            let asked = asked(identity, &headers, "m");
            let round = |_| {
                let began = Instant::now();
                (0..CALLS).for_each(|_| drop(verdicts.admit(&asked)));
                began.elapsed() / CALLS
            };
            println!("a header of {size} bytes: {:?} per call", (0..100).map(round).min());
        }
    }
}

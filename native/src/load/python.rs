//! A load for Python: it runs on threads of its own, and reports its progress.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tokio::runtime::Builder;
use tokio::sync::watch;

use super::drive::{Part, Spent, run};
use super::plan::{Kind, Plan};
use super::record::{Kept, Outcomes, Record, values};
use crate::client::{Channel, ClientRequest, ClientTls, new_channel};

/// The threads, each of which returns the CPU time and the wall time that it spent, or the reason why it could not
/// connect.
type Running = Vec<JoinHandle<Result<Spent, String>>>;

/// A load on one server.
#[pyclass(frozen, module = "headrace_native")]
pub struct Load {
    target: String,
    tls: Option<Py<ClientTls>>,
    plan: Plan,
    kinds: Arc<Vec<Kind>>,
    records: Vec<Arc<Record>>,
    stopped: watch::Sender<bool>,
    threads: Mutex<Option<Running>>,
    /// The number of threads that still run.
    left: Arc<(Mutex<usize>, Condvar)>,
    spent: Mutex<Option<Result<Vec<Spent>, String>>>,
    started: Mutex<Option<Instant>>,
}

#[pymethods]
impl Load {
    /// A load on a target. Each kind is its relative share of the calls and a list of requests,
    /// which are sent in turn. With `tls`, the server's certificate must be for the target's name.
    #[new]
    #[pyo3(signature = (target, kinds, plan, tls=None))]
    fn new(
        target: String,
        kinds: Vec<(f64, Vec<PyRef<'_, ClientRequest>>)>,
        plan: Plan,
        tls: Option<Py<ClientTls>>,
    ) -> PyResult<Self> {
        let kinds: Vec<_> = kinds.iter().map(|(weight, requests)| Kind::new(*weight, requests)).collect();
        if kinds.is_empty() || kinds.iter().any(Kind::is_empty) {
            return Err(PyValueError::new_err(
                "a load needs at least one kind of request, and each kind at least one request",
            ));
        }
        if plan.threads == 0 || plan.connections == 0 || plan.concurrency == 0 {
            return Err(PyValueError::new_err("threads, connections and concurrency must be at least 1"));
        }
        let records = (0..plan.threads).map(|_| Arc::new(Record::new(kinds.len()))).collect();
        Ok(Self {
            target,
            tls,
            kinds: Arc::new(kinds),
            records,
            stopped: watch::Sender::new(false),
            threads: Mutex::new(None),
            left: Arc::new((Mutex::new(plan.threads), Condvar::new())),
            spent: Mutex::new(None),
            started: Mutex::new(None),
            plan,
        })
    }

    /// Starts the load; raises an error if it has been started before. `metadata` is sent with every call.
    fn start(&self, metadata: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<()> {
        let mut threads = self.threads.lock();
        if self.started.lock().replace(Instant::now()).is_some() {
            return Err(PyRuntimeError::new_err("the load has already been started"));
        }
        let mut running = Vec::new();
        for (number, record) in self.records.iter().enumerate() {
            let count = self.plan.share(self.plan.connections, number);
            let channel = || new_channel(&self.target, &metadata, self.tls.as_ref().map(Py::get));
            let channels = (0..count).map(|_| channel()).collect::<PyResult<Vec<Channel>>>()?;
            let part = Part {
                number,
                plan: self.plan.clone(),
                kinds: self.kinds.clone(),
                channels,
                record: record.clone(),
                stopped: self.stopped.subscribe(),
            };
            running.push(self.spawn(part)?);
        }
        *threads = Some(running);
        Ok(())
    }

    /// Seconds since the start, and the numbers of calls that have begun, ended, and failed.
    fn progress(&self) -> (f64, u64, u64, u64) {
        let elapsed = self.started.lock().map_or(0.0, |started| started.elapsed().as_secs_f64());
        let sum = |count: fn(&Record) -> u64| self.records.iter().map(|record| count(record)).sum();
        (
            elapsed,
            sum(|record| record.begun.load(Ordering::Relaxed)),
            sum(|record| record.ended.load(Ordering::Relaxed)),
            sum(|record| record.failed.load(Ordering::Relaxed)),
        )
    }

    /// Waits for at most this many seconds; returns whether the load has ended.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let until = Instant::now() + Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            let (left, changed) = &*self.left;
            let mut left = left.lock();
            while *left > 0 && !changed.wait_until(&mut left, until).timed_out() {}
            *left == 0
        })
    }

    /// Ends the load early.
    fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// The results, once the load has ended: the kinds, each with `latency`, `failures`, `codes` and `bytes`; `lag`;
    /// `texts` by code; `cpu` and `wall` of each thread, in seconds. Latencies are pairs of nanoseconds and counts.
    /// Raises ConnectionError if the load could not connect.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let spent = py.detach(|| self.joined()).map_err(PyConnectionError::new_err)?;
        let kept = Kept::sum(self.kinds.len(), &self.records);
        let kinds = PyList::empty(py);
        for outcomes in &kept.kinds {
            kinds.append(to_python(py, outcomes)?)?;
        }
        let result = PyDict::new(py);
        result.set_item("kinds", kinds)?;
        result.set_item("lag", values(&kept.lag))?;
        result.set_item("texts", kept.texts)?;
        result.set_item("cpu", spent.iter().map(|spent| spent.cpu).collect::<Vec<_>>())?;
        result.set_item("wall", spent.iter().map(|spent| spent.wall).collect::<Vec<_>>())?;
        Ok(result)
    }
}

impl Load {
    fn spawn(&self, part: Part) -> PyResult<JoinHandle<Result<Spent, String>>> {
        let left = self.left.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let name = format!("load-{}", part.number);
        let work = move || {
            let done = runtime.block_on(run(part));
            runtime.shutdown_background();
            *left.0.lock() -= 1;
            left.1.notify_all();
            done
        };
        Ok(thread::Builder::new().name(name).spawn(work)?)
    }

    /// The resources that the threads have used, once all have ended.
    fn joined(&self) -> Result<Vec<Spent>, String> {
        let mut spent = self.spent.lock();
        if spent.is_none() {
            let threads = self.threads.lock().take().unwrap_or_default();
            let done =
                threads.into_iter().map(|thread| thread.join().map_err(|_| "a thread has panicked".to_owned())?);
            *spent = Some(done.collect());
        }
        spent.clone().unwrap_or_else(|| Ok(Vec::new()))
    }
}

fn to_python<'py>(py: Python<'py>, outcomes: &Outcomes) -> PyResult<Bound<'py, PyDict>> {
    let kind = PyDict::new(py);
    kind.set_item("latency", values(&outcomes.latency))?;
    kind.set_item("failures", values(&outcomes.failures))?;
    kind.set_item("codes", outcomes.codes.to_vec())?;
    kind.set_item("bytes", outcomes.bytes)?;
    Ok(kind)
}

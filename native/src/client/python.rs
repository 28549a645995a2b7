//! The client's channel for Python: blocking calls, many calls at once, and calls that notify an event loop.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use parking_lot::Mutex;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use rustc_hash::FxHashMap;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::answer::Answer;
use super::channel::{Channel, Settings};
use super::connection::give_way;
use super::head::Origin;
use super::outputs;
use super::request::{ClientRequest, Message};
use super::retry::Retry;
use super::target::Target;
use super::tls::ClientTls;
use crate::buffer::python_bytes;
use crate::calls::{Inbox, metadata_from_python, metadata_to_python};
use crate::grpc::Status;

/// How often a blocking call lets Python check for signals.
const SIGNALS: Duration = Duration::from_millis(100);

/// A channel's settings for retries and limits.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct Limits {
    attempts: u32,
    backoff: f64,
    max_backoff: f64,
    max_send: usize,
    max_receive: usize,
}

/// How a call failed.
#[pyclass(frozen, get_all, module = "headrace_native")]
pub struct Failure {
    code: u8,
    text: String,
    metadata: Py<PyTuple>,
    tls_failed: bool,
}

/// Ended calls for an event loop: each with its number, and whether arrays are wanted.
type Ended = Inbox<(u64, Answer, bool)>;

/// A connection to one server. A blocking call drives the connection on its own thread. The first call that is started
/// without waiting for its answer starts a thread that drives the connection for all such calls.
#[pyclass(frozen, module = "headrace_native")]
pub struct ClientChannel {
    channel: Arc<Channel>,
    runtime: Mutex<Option<Arc<Runtime>>>,
    started: Mutex<FxHashMap<u64, AbortHandle>>,
    numbers: AtomicU64,
    ended: Arc<Ended>,
    driven: Mutex<bool>,
    /// The ID of the process that created the channel.
    process: u32,
}

#[pymethods]
impl ClientChannel {
    /// A channel to a target; `metadata` is sent with every call. With `tls`, the server's certificate must be for the
    /// given name, or for the target's if that is None. Raises ValueError if the target or the name has an unknown
    /// form.
    #[new]
    #[pyo3(signature = (target, metadata, limits, tls=None))]
    fn new(
        target: &str,
        metadata: Vec<(String, Bound<'_, PyAny>)>,
        limits: Limits,
        tls: Option<(Py<ClientTls>, Option<String>)>,
    ) -> PyResult<Self> {
        let mut settings = settings(target, metadata, &limits)?;
        if let Some((tls, name)) = tls {
            secure(&mut settings, tls.get(), name.as_deref())?;
        }
        Ok(Self {
            channel: Arc::new(Channel::new(settings)),
            runtime: Mutex::new(Some(Arc::new(Builder::new_current_thread().enable_all().build()?))),
            started: Mutex::default(),
            numbers: AtomicU64::new(0),
            ended: Arc::new(Inbox::new()?),
            driven: Mutex::new(false),
            process: std::process::id(),
        })
    }

    /// Whether a target has a known form.
    #[staticmethod]
    fn knows(target: &str) -> bool {
        Target::parse(target).is_some_and(|parsed| Authority::try_from(parsed.authority()).is_ok())
    }

    /// Makes a call, and waits for its end. Returns a Failure or the answer's bytes. If the request wants arrays,
    /// returns the outputs by name instead of the bytes, unless their form is left to Python.
    fn call<'py>(&self, py: Python<'py>, request: &ClientRequest, seconds: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let timeout = duration(seconds)?;
        let answer = wait(py, &*self.runtime()?, self.channel.call(&request.message, timeout))?;
        to_python(py, answer, request.arrays)
    }

    /// Makes many calls, `in_flight` of them at a time, and waits for all; returns their results in order.
    fn call_many<'py>(
        &self,
        py: Python<'py>,
        requests: Vec<PyRef<'py, ClientRequest>>,
        seconds: Option<f64>,
        in_flight: usize,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let timeout = duration(seconds)?;
        let messages: Vec<_> = requests.iter().map(|request| request.message.clone()).collect();
        let answers = wait(py, &*self.runtime()?, call_many(self.channel.clone(), messages, timeout, in_flight))?;
        let each = answers.into_iter().zip(requests);
        each.map(|(answer, request)| to_python(py, answer, request.arrays)).collect()
    }

    /// Starts a call; returns its number, with which `take` reports its end.
    fn start(&self, request: &ClientRequest, seconds: Option<f64>) -> PyResult<u64> {
        let timeout = duration(seconds)?;
        let runtime = self.runtime()?;
        self.drive(&runtime)?;
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (channel, ended) = (self.channel.clone(), self.ended.clone());
        let (message, arrays) = (request.message.clone(), request.arrays);
        let mut started = self.started.lock();
        let task = runtime.spawn(async move {
            let answer = channel.call(&message, timeout).await;
            ended.push((number, answer, arrays));
        });
        started.insert(number, task.abort_handle());
        Ok(number)
    }

    /// Cancels a started call, unless it has already ended. The end of a cancelled call is not reported.
    fn cancel(&self, number: u64) {
        if let Some(task) = self.started.lock().remove(&number) {
            task.abort();
        }
    }

    /// A socket that is readable if started calls have ended.
    fn fileno(&self) -> i32 {
        use std::os::fd::AsRawFd;
        self.ended.readable().as_raw_fd()
    }

    /// The numbers of calls that have ended since the last `take`, each with its result.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Vec<(u64, Bound<'py, PyAny>)>> {
        let ended = self.ended.take();
        let mut started = self.started.lock();
        ended.iter().for_each(|(number, ..)| drop(started.remove(number)));
        drop(started);
        ended.into_iter().map(|(number, answer, arrays)| Ok((number, to_python(py, answer, arrays)?))).collect()
    }

    /// Cancels the calls in flight, and closes the connection.
    fn close(&self, py: Python<'_>) {
        self.channel.close();
        let runtime = self.runtime.lock().take();
        let Some(runtime) = runtime else { return };
        py.detach(|| {
            // The connection's task notices that nothing refers to the connection any more, and closes the socket.
            runtime.block_on(give_way());
            if let Ok(runtime) = Arc::try_unwrap(runtime) {
                runtime.shutdown_background();
            }
        });
    }
}

impl ClientChannel {
    fn runtime(&self) -> PyResult<Arc<Runtime>> {
        self.runtime.lock().clone().ok_or_else(|| PyValueError::new_err("the client is closed"))
    }

    /// Starts the thread that drives started calls, unless it has been started before.
    fn drive(&self, runtime: &Arc<Runtime>) -> PyResult<()> {
        let mut driven = self.driven.lock();
        if !*driven {
            let (runtime, channel) = (runtime.clone(), self.channel.clone());
            let run = move || {
                runtime.block_on(async {
                    channel.closed().await;
                    give_way().await;
                });
            };
            thread::Builder::new().name("headrace-client".into()).spawn(run)?;
            *driven = true;
        }
        Ok(())
    }
}

impl Drop for ClientChannel {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // After a fork, the sockets and their registrations belong to the parent process, too: closing them here
            // would break them there.
            return std::mem::forget(self.runtime.lock().take());
        }
        self.channel.close();
        if let Some(Ok(runtime)) = self.runtime.lock().take().map(Arc::try_unwrap) {
            runtime.shutdown_background();
        }
    }
}

fn settings(target: &str, metadata: Vec<(String, Bound<'_, PyAny>)>, limits: &Limits) -> PyResult<Settings> {
    let unknown = || PyValueError::new_err(format!("this client does not support the target {target}"));
    let parsed = Target::parse(target).ok_or_else(unknown)?;
    let authority = Authority::try_from(parsed.authority()).map_err(|_| unknown())?;
    Ok(Settings {
        target: parsed,
        origin: Origin { scheme: Scheme::HTTP, authority },
        tls: None,
        metadata: metadata_from_python(metadata)?,
        retry: Retry::new(limits.attempts, limits.backoff, limits.max_backoff),
        max_send: limits.max_send,
        max_receive: limits.max_receive,
    })
}

/// Adds TLS with a server of this name, which is also sent as `:authority`, as in gRPC.
fn secure(settings: &mut Settings, tls: &ClientTls, name: Option<&str>) -> PyResult<()> {
    let unknown = |name: &str| {
        PyValueError::new_err(format!(
            "the server's certificate cannot be for {name}: call a DNS name or an IP address, or give the certificate's \
             name as grpc.ssl_target_name_override"
        ))
    };
    if let Some(name) = name {
        settings.origin.authority = Authority::try_from(name).map_err(|_| unknown(name))?;
    }
    let name = name.unwrap_or(settings.target.name());
    settings.tls = Some(tls.with(name).ok_or_else(|| unknown(name))?);
    settings.origin.scheme = Scheme::HTTPS;
    Ok(())
}

/// A channel without retries or limits on messages. With TLS, the server's certificate must be for the target's name.
pub fn new_channel(
    target: &str,
    metadata: &[(String, Bound<'_, PyAny>)],
    tls: Option<&ClientTls>,
) -> PyResult<Channel> {
    let limits = Limits { attempts: 1, backoff: 0.0, max_backoff: 0.0, max_send: usize::MAX, max_receive: usize::MAX };
    let mut settings = settings(target, metadata.to_vec(), &limits)?;
    if let Some(tls) = tls {
        secure(&mut settings, tls, None)?;
    }
    Ok(Channel::new(settings))
}

/// Drives a future on this thread, without the interpreter lock, and lets Python check for signals.
fn wait<T: Send>(py: Python<'_>, runtime: &Runtime, future: impl Future<Output = T> + Send) -> PyResult<T> {
    let mut future = pin!(future);
    loop {
        let done = py.detach(|| runtime.block_on(async { timeout(SIGNALS, future.as_mut()).await }));
        if let Ok(done) = done {
            return Ok(done);
        }
        py.check_signals()?;
    }
}

async fn call_many(
    channel: Arc<Channel>,
    messages: Vec<Message>,
    timeout: Option<Duration>,
    in_flight: usize,
) -> Vec<Answer> {
    let (messages, next) = (Arc::new(messages), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..in_flight.clamp(1, messages.len().max(1)) {
        let (channel, messages, next) = (channel.clone(), messages.clone(), next.clone());
        callers.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(message) = messages.get(place) else { return answers };
                answers.push((place, channel.call(message, timeout).await));
            }
        });
    }
    let mut answers: Vec<_> = callers.join_all().await.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn to_python(py: Python<'_>, answer: Answer, arrays: bool) -> PyResult<Bound<'_, PyAny>> {
    if !answer.status.is_ok() {
        return failure(py, answer);
    }
    if arrays && let Some(outputs) = outputs::arrays(py, &answer.message)? {
        return Ok(outputs.into_any());
    }
    let no_memory = |_| PyMemoryError::new_err("no memory for the answer");
    Ok(python_bytes(py, &answer.message.into_bytes().map_err(no_memory)?)?.into_any())
}

fn failure<'py>(py: Python<'py>, answer: Answer) -> PyResult<Bound<'py, PyAny>> {
    let metadata = metadata_to_python(py, &answer.metadata)?.unbind();
    let (Status { code, text }, tls_failed) = (answer.status, answer.tls_failed);
    Ok(Bound::new(py, Failure { code, text, metadata, tls_failed })?.into_any())
}

/// Converts a timeout; None for a call without a time limit. A negative number counts as 0.
fn duration(seconds: Option<f64>) -> PyResult<Option<Duration>> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds.is_nan() => Err(PyRuntimeError::new_err("a timeout must be a number")),
        Some(seconds) => Ok(Some(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))),
    }
}

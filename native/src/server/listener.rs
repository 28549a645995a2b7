//! The server: addresses, the threads that serve connections, draining.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::watch;

use super::acceptor::{ThreadHandle, accept_all, run_thread};
use super::busy_poll::most_together;
use super::limits::Limits;
use super::service::{Protocol, Service};
use super::shared::Shared;
use super::thread::ConnectionThread;
use crate::bridge::{Queue, Routes};
use crate::calls::PlainFields;
use crate::http::HttpEndpoint;
use crate::http2::{Address, Tls};
use crate::memory::KINDS;
use crate::traces::Spans;

const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// The addresses, and the threads that serve their connections.
#[pyclass(frozen, module = "headrace_native")]
pub struct Server {
    shared: Arc<Shared>,
    addresses: UnboundedSender<(Address, Service)>,
    /// The addresses to accept connections at; None once the server has started.
    listening: Mutex<Option<UnboundedReceiver<(Address, Service)>>>,
    stop: watch::Sender<Option<Duration>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[pymethods]
impl Server {
    /// `methods` are full paths, each with whether its requests stream.
    #[new]
    fn new(
        methods: Vec<(String, bool)>,
        limits: Limits,
        queue: &Bound<'_, Queue>,
        routes: Py<Routes>,
        plain: PlainFields,
    ) -> PyResult<Self> {
        let shared = Shared::new(methods, limits, queue.clone().unbind(), routes, plain)?;
        let (addresses, listening) = unbounded_channel();
        Ok(Self {
            shared: Arc::new(shared),
            addresses,
            listening: Mutex::new(Some(listening)),
            stop: watch::Sender::new(None),
            threads: Mutex::default(),
        })
    }

    /// Binds an address for gRPC, before or after the start; returns the port, 0 for a UNIX socket.
    #[pyo3(signature = (address, tls=None))]
    fn listen(&self, address: &str, tls: Option<&Bound<'_, Tls>>) -> PyResult<u16> {
        self.serve_at(address, tls, Protocol::Grpc)
    }

    /// Traces the requests that `spans` samples. Called at most once, before the server starts.
    fn sample_traces(&self, spans: &Bound<'_, Spans>) {
        let _ = self.shared.traces.set(spans.borrow().traces()); // fails only if it is set twice
    }

    /// Listens for HTTP at an address.
    #[pyo3(signature = (address, endpoint, tls=None))]
    fn listen_http(
        &self,
        address: &str,
        endpoint: &Bound<'_, HttpEndpoint>,
        tls: Option<&Bound<'_, Tls>>,
    ) -> PyResult<u16> {
        self.serve_at(address, tls, Protocol::Http(endpoint.get().0.clone()))
    }

    /// Starts a thread that accepts connections, and this many other threads that serve them.
    fn start(&self, threads: usize) -> PyResult<()> {
        let mut running = self.threads.lock();
        let (alive, ended) = channel(1);
        let mut handles = Vec::new();
        let threads = threads.max(1);
        for number in 0..threads {
            let thread = Arc::new(ConnectionThread::new(self.shared.clone(), most_together(threads)));
            let (sender, arrivals) = unbounded_channel();
            handles.push(ThreadHandle { thread: thread.clone(), arrivals: sender });
            let parked = thread.clone();
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1) // one thread for decompressing and parsing large messages
                .thread_keep_alive(FOR_EVER)
                .thread_name(format!("expander-{number}"))
                .on_thread_start(let_others_go_first)
                .on_thread_park(move || parked.busy_poll.on_park())
                .build()?;
            // The thread begins now: if the system had no thread left when a call needed one, tokio would panic.
            runtime.spawn_blocking(|| ());
            let serving = run_thread(thread, arrivals, self.stop.subscribe(), alive.clone());
            running.push(spawn(&format!("transport-{number}"), runtime, serving)?);
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listening = self.listening.lock().take();
        let listening = listening.ok_or_else(|| PyRuntimeError::new_err("the server has already been started"))?;
        let accepting = accept_all(listening, handles, self.shared.clone(), self.stop.subscribe(), ended);
        running.push(spawn("transport", runtime, accepting)?);
        Ok(())
    }

    fn fileno(&self) -> i32 {
        self.shared.handlers.inbox.readable().as_raw_fd()
    }

    /// Removes and returns all events.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.shared.ended.count(py)?;
        self.shared.queue.get().tasks.count(py);
        let events: Vec<Bound<'py, PyTuple>> = self
            .shared
            .handlers
            .inbox
            .take()
            .into_iter()
            .filter_map(|event| event.into_python(py).transpose())
            .collect::<PyResult<_>>()?;
        PyList::new(py, events)
    }

    /// Forgets the kept answers, because Python's state has changed.
    fn forget_answers(&self) {
        self.shared.handlers.questions.forget();
    }

    /// Accepts no more calls; a Drained event follows when those in flight have ended, or after `grace` seconds.
    fn stop(&self, grace: f64) -> PyResult<()> {
        let grace = Duration::try_from_secs_f64(grace).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.send_replace(Some(grace));
        Ok(())
    }

    /// The memory that the server uses for clients: bytes by kind, the limit, and how often memory was refused.
    fn memory(&self) -> (Vec<(&'static str, usize)>, usize, u64) {
        let budget = &self.shared.budget;
        (KINDS.into_iter().zip(budget.by_kind()).collect(), budget.limit(), budget.refusals())
    }

    /// Waits for the threads to end.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        let threads = std::mem::take(&mut *self.threads.lock());
        py.detach(|| threads.into_iter().try_for_each(JoinHandle::join))
            .map_err(|_| PyRuntimeError::new_err("a thread of the native transport panicked"))
    }
}

impl Server {
    fn serve_at(&self, address: &str, tls: Option<&Bound<'_, Tls>>, protocol: Protocol) -> PyResult<u16> {
        let address = Address::take(address)?;
        let port = address.port()?;
        let service = Service { tls: tls.map(|tls| tls.get().0.clone()), protocol };
        // Fails only if the server has ended.
        let _ = self.addresses.send((address, service));
        Ok(port)
    }
}

/// Lowers the priority of this thread, if the system has priorities for threads.
fn let_others_go_first() {
    const LOWER: i32 = 10;
    // A thread may always lower its own priority. If a sandbox forbids the call, the priority stays as it is.
    let _ = rustix::process::nice(LOWER);
}

fn spawn(
    name: &str,
    runtime: Runtime,
    serving: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // The outer `attach` creates the interpreter's state for this thread, which exists until the thread ends; `detach`
    // releases only the interpreter lock. Otherwise, every later `attach` would create and free such a state, which is
    // expensive.
    let serve = move || Python::attach(|py| py.detach(|| runtime.block_on(serving)));
    thread::Builder::new().name(name.into()).spawn(serve)
}

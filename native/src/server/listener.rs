//! The server: addresses, the threads that connections live on, draining.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bridge::queue::Queue;
use crate::calls::exchange::Kind;
use crate::http2::socket::{Accepted, Address};
use crate::http2::tls::{Certified, Tls};
use crate::predict::Routes;
use crate::server::connection::carry;
use crate::server::limits::Limits;
use crate::server::thread::{Home, Shared, Stop, stopped};

const LOOK_AFTER: Duration = Duration::from_millis(20);

/// A connection that has just been accepted, and what secures it.
type Arrival = (Accepted, Option<Arc<Certified>>);

/// The way to a home.
#[derive(Clone)]
struct Door {
    home: Arc<Home>,
    arrivals: UnboundedSender<Arrival>,
}

/// The addresses, and the threads that their connections live on.
#[pyclass(frozen, module = "headrace_native")]
pub struct Server {
    shared: Arc<Shared>,
    addresses: Mutex<Vec<(Address, Option<Arc<Certified>>)>>,
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
    ) -> PyResult<Self> {
        let shared = Shared::new(methods, limits, queue.clone().unbind(), routes)?;
        Ok(Self {
            shared: Arc::new(shared),
            addresses: Mutex::default(),
            stop: watch::Sender::new(None),
            threads: Mutex::default(),
        })
    }

    /// Takes an address; the port that it got, 0 for a UNIX socket.
    #[pyo3(signature = (address, tls=None))]
    fn listen(&self, address: &str, tls: Option<&Bound<'_, Tls>>) -> PyResult<u16> {
        let address = Address::take(address)?;
        let port = address.port()?;
        self.addresses.lock().push((address, tls.map(|tls| tls.get().0.clone())));
        Ok(port)
    }

    /// Accepts connections on a thread of its own; they live on so many others.
    fn start(&self, threads: usize) -> PyResult<()> {
        let mut running = self.threads.lock();
        let (alive, ended) = channel(1);
        let mut doors = Vec::new();
        for number in 0..threads.max(1) {
            let home = Arc::new(Home::new(self.shared.clone()));
            let (door, arrivals) = unbounded_channel();
            doors.push(Door { home: home.clone(), arrivals: door });
            let resting = home.clone();
            let runtime = Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(1) // it expands large messages, one after the other
                .thread_name(format!("expander-{number}"))
                .on_thread_park(move || resting.rests())
                .build()?;
            let living = live(home, arrivals, self.stop.subscribe(), alive.clone());
            running.push(spawn(&format!("transport-{number}"), runtime, living)?);
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let addresses = std::mem::take(&mut *self.addresses.lock());
        let front = front(addresses, doors, self.shared.clone(), self.stop.subscribe(), ended);
        running.push(spawn("transport", runtime, front)?);
        Ok(())
    }

    fn fileno(&self) -> i32 {
        self.shared.inbox.ear().as_raw_fd()
    }

    /// All events since the last time.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.shared.count(py)?;
        let events: Vec<Bound<'py, PyTuple>> =
            self.shared.inbox.take().into_iter().map(|event| event.into_python(py)).collect::<PyResult<_>>()?;
        PyList::new(py, events)
    }

    /// Takes no more calls; a Drained event follows when those in flight have ended, or after `grace` seconds.
    fn stop(&self, grace: f64) -> PyResult<()> {
        let grace = Duration::try_from_secs_f64(grace).map_err(|error| PyRuntimeError::new_err(error.to_string()))?;
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.stop.send_replace(Some(grace));
        Ok(())
    }

    /// Waits for the threads to end.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        let threads = std::mem::take(&mut *self.threads.lock());
        py.detach(|| threads.into_iter().try_for_each(JoinHandle::join))
            .map_err(|_| PyRuntimeError::new_err("a thread of the native transport panicked"))
    }
}

fn spawn(
    name: &str,
    runtime: Runtime,
    serving: impl Future<Output = ()> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    // It is known to the interpreter for as long as it lives: to become so for each task that it runs would cost it dear.
    let serve = move || Python::attach(|py| py.detach(|| runtime.block_on(serving)));
    thread::Builder::new().name(name.into()).spawn(serve)
}

/// Accepts connections until the server is told to stop, and says when all have drained.
async fn front(
    addresses: Vec<(Address, Option<Arc<Certified>>)>,
    doors: Vec<Door>,
    shared: Arc<Shared>,
    stop: Stop,
    mut ended: Receiver<Infallible>,
) {
    let mut accepting = JoinSet::new();
    for (address, tls) in addresses {
        accepting.spawn(accept(address, tls, doors.clone()));
    }
    let homes: Vec<_> = doors.into_iter().map(|door| door.home).collect();
    let drained = async {
        stopped(stop).await;
        accepting.shutdown().await;
        ended.recv().await;
    };
    tokio::select! {
        () = drained => {}
        () = watch(&shared, &homes) => {}
    }
    shared.inbox.push(Kind::Drained, None, None);
}

/// Looks now and then after what nobody else does.
async fn watch(shared: &Shared, homes: &[Arc<Home>]) {
    loop {
        tokio::time::sleep(LOOK_AFTER).await;
        shared.look();
        homes.iter().for_each(|home| home.wake_at_last());
    }
}

/// Accepts connections at one address, and gives each to the thread that has the fewest.
async fn accept(address: Address, tls: Option<Arc<Certified>>, doors: Vec<Door>) -> io::Result<()> {
    let listener = address.listen()?;
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                let fewest = doors.iter().min_by_key(|door| door.home.connections.load(Ordering::Relaxed));
                let Some(door) = fewest else { return Ok(()) };
                door.home.connections.fetch_add(1, Ordering::Relaxed);
                // Fails only where the server is at its end.
                let _ = door.arrivals.send((accepted, tls.clone()));
            }
            // Out of file descriptors, most likely: there will be some when a connection has ended.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Carries the connections that arrive, until the server stops and they have drained; drops `_alive` then.
async fn live(home: Arc<Home>, mut arrivals: UnboundedReceiver<Arrival>, stop: Stop, _alive: Sender<Infallible>) {
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopped(stop.clone()));
    if thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        // On the only core, whoever stays awake keeps the others from what they wait for.
        let home = home.clone();
        tokio::spawn(async move { home.linger().await });
    }
    let grace = loop {
        tokio::select! {
            biased;
            grace = &mut stopping => break grace,
            Some(_) = connections.join_next() => {
                home.connections.fetch_sub(1, Ordering::Relaxed);
            }
            Some((accepted, tls)) = arrivals.recv() => {
                connections.spawn(carry(accepted, tls, home.clone(), stop.clone()));
            }
        }
    };
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, drained).await;
    connections.shutdown().await;
}

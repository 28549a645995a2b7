//! HTTP/2 connections: their calls, their ends, draining.

use std::future::Future;
use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use http::{HeaderMap, Method, Request, StatusCode};
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use rustc_hash::FxHashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::grpc::{self, Encoding, Messages, Status, UNIMPLEMENTED};
use crate::handler::{self, Arrived, Inbox, Kind, Opening};
use crate::predict::{self, Lapse, Routes};
use crate::queue::{Refusal, Waiting};
use crate::rope::Rope;
use crate::socket;
use crate::tasks::{Core, Queue, Task};

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const LOOK_AFTER: Duration = Duration::from_millis(20);
const MAX_FRAME: u32 = 256 << 10;

/// The limits of one server, by the names of gRPC's channel arguments without their first word.
#[pyclass(frozen, from_py_object, module = "headrace_native")]
#[derive(Clone)]
pub struct Limits {
    max_receive_message_length: usize,
    max_concurrent_streams: u32,
    max_metadata_size: u32,
    keepalive_time: Duration,
    keepalive_timeout: Duration,
    compression: Encoding,
}

#[pymethods]
impl Limits {
    #[new]
    #[pyo3(signature = (*, max_receive_message_length, max_concurrent_streams, max_metadata_size, keepalive_time_ms, keepalive_timeout_ms, default_compression_algorithm))]
    fn new(
        max_receive_message_length: usize,
        max_concurrent_streams: u32,
        max_metadata_size: u32,
        keepalive_time_ms: u64,
        keepalive_timeout_ms: u64,
        default_compression_algorithm: u8,
    ) -> Self {
        let compression = match default_compression_algorithm {
            1 => Encoding::Deflate,
            2 => Encoding::Gzip,
            _ => Encoding::Identity,
        };
        Self {
            max_receive_message_length,
            max_concurrent_streams,
            max_metadata_size,
            keepalive_time: Duration::from_millis(keepalive_time_ms),
            keepalive_timeout: Duration::from_millis(keepalive_timeout_ms),
            compression,
        }
    }
}

/// What all connections of a server share.
struct Shared {
    methods: FxHashMap<String, (usize, bool)>,
    predict: Option<usize>,
    limits: Limits,
    inbox: Arc<Inbox>,
    routes: Py<Routes>,
    queue: Arc<Core>,
    wake_due: AtomicBool,
    stopping: AtomicBool,
    lapses: Mutex<Vec<Lapse>>,
}

impl Shared {
    /// Puts a plain Predict into the queue; hands back what it is not for it to judge.
    fn predict(
        &self,
        opening: &Opening,
        message: Rope,
        respond: SendResponse<Bytes>,
    ) -> Option<(Rope, SendResponse<Bytes>)> {
        let Some(plain) = self.routes.get().read(&message) else { return Some((message, respond)) };
        let (route, key, rows) = (plain.route.clone(), plain.key.clone(), plain.rows);
        let lane = &route.get().lane;
        let deadline = opening.deadline.map(|deadline| lane.clock().at(deadline));
        let task = Task::Native(Box::new(plain.into_task(message, respond)));
        let waiting = Waiting::new(task, rows, deadline, priority(&opening.headers));
        match lane.put(key, waiting, Instant::now()) {
            Ok(wake) => {
                if wake {
                    self.wake_due.store(true, Ordering::Relaxed);
                }
                None
            }
            Err((Refusal::Full(reason), Task::Native(task))) => {
                let status = route.get().refuse(&reason, task.seconds());
                task.refuse(&status);
                None
            }
            // The version is being unloaded: there may be another by now.
            Err((_, Task::Native(task))) => Some(task.into_parts()),
            Err((_, Task::Python(_))) => None,
        }
    }

    /// Looks now and then for plain Predicts whose callers have left or waited for too long, and has them counted.
    async fn watch(&self) {
        loop {
            tokio::time::sleep(LOOK_AFTER).await;
            let lapsed = self.queue.lapsed();
            if !lapsed.is_empty() {
                self.lapses.lock().extend(lapsed);
                self.inbox.push(Kind::Lapsed, None, None);
            }
        }
    }

    /// Calls an idle batch thread, if one is to be called.
    fn wake(&self) {
        if self.wake_due.swap(false, Ordering::Relaxed) {
            self.queue.wake();
        }
    }
}

/// 1 for a call that lets the others go first.
fn priority(headers: &HeaderMap) -> usize {
    usize::from(headers.get_all("headrace-priority").iter().any(|value| value == "low"))
}

/// The listener, its connections, and the thread that they all live on.
#[pyclass(frozen, module = "headrace_native")]
pub struct Server {
    shared: Arc<Shared>,
    listeners: Mutex<Vec<StdListener>>,
    stop: watch::Sender<Option<Duration>>,
    thread: Mutex<Option<JoinHandle<()>>>,
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
        let methods = methods.into_iter().enumerate().map(|(number, (path, streams))| (path, (number, streams)));
        let methods: FxHashMap<_, _> = methods.collect();
        let shared = Shared {
            predict: methods.get(predict::PATH).map(|method| method.0),
            methods,
            limits,
            inbox: Arc::new(Inbox::new()?),
            routes,
            queue: queue.get().core.clone(),
            wake_due: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            lapses: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            listeners: Mutex::default(),
            stop: watch::Sender::new(None),
            thread: Mutex::new(None),
        })
    }

    /// Takes an address; the port that it got.
    fn listen(&self, address: &str) -> PyResult<u16> {
        let listener = socket::listen(address)?;
        let port = listener.local_addr()?.port();
        self.listeners.lock().push(listener);
        Ok(port)
    }

    /// Accepts connections, on a thread of its own.
    fn start(&self) -> PyResult<()> {
        let resting = self.shared.clone();
        // When all that has come has been read, and more would be waited for, the batch is as large as it gets.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .on_thread_park(move || resting.wake())
            .build()?;
        let listeners = std::mem::take(&mut *self.listeners.lock());
        let serving = serve(listeners, self.shared.clone(), self.stop.subscribe());
        let thread = std::thread::Builder::new().name("transport".into()).spawn(move || runtime.block_on(serving))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    fn fileno(&self) -> i32 {
        self.shared.inbox.ear().as_raw_fd()
    }

    /// All events since the last time.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let lapses = std::mem::take(&mut *self.shared.lapses.lock());
        lapses.into_iter().try_for_each(|lapse| lapse.count(py))?;
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

    /// Waits for the thread to end.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        let thread = self.thread.lock().take();
        let Some(thread) = thread else { return Ok(()) };
        py.detach(|| thread.join()).map_err(|_| PyRuntimeError::new_err("the native transport's thread panicked"))
    }
}

/// Accepts connections until it is told to stop, and waits for their calls.
async fn serve(listeners: Vec<StdListener>, shared: Arc<Shared>, stop: watch::Receiver<Option<Duration>>) {
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, shared.clone(), stop.clone()));
    }
    tokio::select! {
        () = async { while accepting.join_next().await.is_some() {} } => {}
        () = shared.watch() => {}
    }
    shared.inbox.push(Kind::Drained, None, None);
}

async fn accept(listener: StdListener, shared: Arc<Shared>, stop: watch::Receiver<Option<Duration>>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    let mut stopping = pin!(stopped(stop.clone()));
    let grace = loop {
        tokio::select! {
            biased;
            grace = &mut stopping => break grace,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    // Without it small answers are late, and that is all.
                    let _ = socket.set_nodelay(true);
                    let peer = socket::peer_name(peer).into();
                    connections.spawn(connection(socket, peer, shared.clone(), stop.clone()));
                }
                // Out of file descriptors, most likely: there will be some when a connection has ended.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    };
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(grace, drained).await;
    connections.shutdown().await;
    Ok(())
}

/// Waits until the server is told to stop; how long calls in flight may take to end.
async fn stopped(mut stop: watch::Receiver<Option<Duration>>) -> Duration {
    // It fails where the server is gone, and nobody waits any more.
    stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default()
}

/// One connection, until its caller closes it, it breaks, or it has drained.
async fn connection(socket: TcpStream, peer: Arc<str>, shared: Arc<Shared>, stop: watch::Receiver<Option<Duration>>) {
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(shared.limits.max_concurrent_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(shared.limits.max_metadata_size)
        .handshake(socket);
    if let Ok(Ok(http2)) = tokio::time::timeout(HANDSHAKE_WITHIN, handshake).await {
        // What breaks a connection is the caller's affair, and has ended its calls.
        let _ = Peer { peer, shared }.run(http2, stop).await;
    }
}

struct Peer {
    peer: Arc<str>,
    shared: Arc<Shared>,
}

impl Peer {
    async fn run(
        &self,
        mut http2: Connection<TcpStream, Bytes>,
        stop: watch::Receiver<Option<Duration>>,
    ) -> Result<(), h2::Error> {
        let mut alive = pin!(keepalive(http2.ping_pong(), self.shared.limits.clone()));
        let mut stopping = pin!(stopped(stop));
        let mut stopped = false;
        loop {
            tokio::select! {
                biased;
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) => self.open(request, respond),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                _ = &mut stopping, if !stopped => {
                    stopped = true;
                    http2.graceful_shutdown();
                }
                () = &mut alive => return Ok(()),
            }
        }
    }

    /// Begins a call: at once where its only message has come already.
    fn open(&self, request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>) {
        if self.shared.stopping.load(Ordering::Relaxed) {
            // It was sent before the caller knew; gRPC sends it again, elsewhere.
            respond.send_reset(h2::Reason::REFUSED_STREAM);
            return;
        }
        let (head, body) = request.into_parts();
        if head.method != Method::POST || !grpc::is_grpc(&head.headers) {
            // Fails only where the caller has gone.
            let _ = respond.send_response(grpc::http_refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE), true);
            return;
        }
        let (opening, encoding) = match self.opening(head) {
            Ok(opening) => opening,
            Err(status) => {
                let _ = respond.send_response(status.response(), true);
                return;
            }
        };
        let mut messages = Messages::new(body, encoding, self.shared.limits.max_receive_message_length);
        let message = if opening.streaming { None } else { arrived(&mut messages) };
        if message.is_none() && Some(opening.method) == self.shared.predict {
            tokio::spawn(predict_late(self.shared.clone(), opening, messages, respond));
        } else {
            dispatch(&self.shared, opening, messages, respond, message);
        }
    }

    fn opening(&self, head: http::request::Parts) -> Result<(Opening, Encoding), Status> {
        let Some(&(method, streaming)) = self.shared.methods.get(head.uri.path()) else {
            return Err(Status::new(UNIMPLEMENTED, "Method not found!"));
        };
        let deadline = grpc::timeout(&head.headers)?.map(|timeout| Instant::now() + timeout);
        let encoding = Encoding::of_request(&head.headers)?;
        let opening = Opening {
            method,
            streaming,
            deadline,
            peer: self.peer.clone(),
            encoding: Encoding::of_response(&head.headers, self.shared.limits.compression),
            headers: head.headers,
        };
        Ok((opening, encoding))
    }
}

/// A Predict whose message has not all come yet.
async fn predict_late(shared: Arc<Shared>, opening: Opening, mut messages: Messages, respond: SendResponse<Bytes>) {
    let message = messages.only().await;
    dispatch(&shared, opening, messages, respond, Some(message));
}

/// Puts a plain Predict into the queue, and gives every other call to its handler.
fn dispatch(
    shared: &Arc<Shared>,
    opening: Opening,
    messages: Messages,
    respond: SendResponse<Bytes>,
    message: Arrived,
) {
    let plain = Some(opening.method) == shared.predict && opening.encoding == Encoding::Identity;
    let (message, respond) = match message {
        Some(Ok(message)) if plain => match shared.predict(&opening, message, respond) {
            Some((message, respond)) => (Some(Ok(message)), respond),
            None => return,
        },
        message => (message, respond),
    };
    tokio::spawn(handler::run(shared.inbox.clone(), opening, messages, respond, message));
}

/// The only message of a call, or what is wrong with it, where all its bytes have come.
fn arrived(messages: &mut Messages) -> Arrived {
    let only = pin!(messages.only());
    match only.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(message) => Some(message),
        Poll::Pending => None,
    }
}

/// Returns when the caller has not answered a ping in time.
async fn keepalive(pings: Option<h2::PingPong>, limits: Limits) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(limits.keepalive_time).await;
        let answered = tokio::time::timeout(limits.keepalive_timeout, pings.ping(h2::Ping::opaque())).await;
        if !matches!(answered, Ok(Ok(_))) {
            return;
        }
    }
}

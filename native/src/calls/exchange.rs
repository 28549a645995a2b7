//! Every call that is not decided here: bytes across to the Python handler and back.

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::grpc::{self, Encoding, Frame, Messages, OK, ReadError, Status};
use crate::http2::outgoing::Outgoing;
use crate::protobuf::rope::Rope;

/// What the event loop is told; Python has it by the same names.
#[derive(Clone, Copy)]
pub enum Kind {
    /// A call begins; the payload is its only message, or None where messages are asked for.
    Begin = 0,
    /// The next message that was asked for, or None at the end.
    Message = 1,
    /// A message that was sent has left.
    Sent = 2,
    /// Nobody waits for the call any more.
    Cancelled = 3,
    /// The server has drained.
    Drained = 4,
    /// Calls have ended that are counted as events are taken.
    Lapsed = 5,
}

/// Something for the event loop: a kind, the call it is about, and bytes.
pub struct Event {
    kind: Kind,
    call: Option<Arc<CallState>>,
    payload: Option<Bytes>,
}

/// Events on their way to the event loop, which reads a byte from a socket when there are any, and takes them all.
pub struct Inbox {
    events: Mutex<Vec<Event>>,
    bell: UnixStream,
    ear: UnixStream,
}

impl Inbox {
    pub fn new() -> std::io::Result<Self> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        Ok(Self { events: Mutex::new(Vec::new()), bell, ear })
    }

    pub fn ear(&self) -> &UnixStream {
        &self.ear
    }

    pub fn push(&self, kind: Kind, call: Option<&Arc<CallState>>, payload: Option<Bytes>) {
        let mut events = self.events.lock();
        events.push(Event { kind, call: call.cloned(), payload });
        if events.len() == 1 {
            // One byte is in the socket at most, so there is room for it.
            let _ = (&self.bell).write(&[0]);
        }
    }

    pub fn take(&self) -> Vec<Event> {
        let mut events = self.events.lock();
        if let Err(error) = (&self.ear).read(&mut [0]) {
            debug_assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        std::mem::take(&mut events)
    }
}

impl Event {
    pub fn into_python(self, py: Python<'_>) -> PyResult<Bound<'_, PyTuple>> {
        let call = self.call.map(|state| Call { state });
        let payload = self.payload.map(|bytes| PyBytes::new(py, &bytes));
        (self.kind as u8, call, payload).into_pyobject(py)
    }
}

/// What a call is to both sides.
pub struct CallState {
    pub method: usize,
    headers: HeaderMap,
    deadline: Option<Instant>,
    peer: Arc<str>,
    commands: UnboundedSender<Command>,
    owner: Mutex<Option<Py<PyAny>>>,
}

enum Command {
    Read,
    Head(HeaderMap),
    Send(Bytes),
    Finish { message: Option<Bytes>, status: Status, trailers: HeaderMap },
}

/// A call in Python's hands. Its owner, whatever Python wants to find again, is forgotten when it ends.
#[pyclass(frozen, module = "headrace_native")]
pub struct Call {
    state: Arc<CallState>,
}

#[pymethods]
impl Call {
    #[getter]
    fn method(&self) -> usize {
        self.state.method
    }

    #[getter]
    fn peer(&self) -> &str {
        &self.state.peer
    }

    #[getter]
    fn owner(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.owner.lock().as_ref().map(|owner| owner.clone_ref(py))
    }

    #[setter]
    fn set_owner(&self, owner: Option<Py<PyAny>>) {
        let before = std::mem::replace(&mut *self.state.owner.lock(), owner);
        drop(before);
    }

    #[getter]
    fn metadata<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let pairs: Vec<_> =
            self.state.headers.iter().filter(|(name, _)| is_metadata(name)).map(|pair| pair_of(py, pair)).collect();
        PyTuple::new(py, pairs)
    }

    fn time_remaining(&self) -> Option<f64> {
        let deadline = self.state.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    fn read(&self) {
        self.command(Command::Read);
    }

    fn send(&self, message: &Bound<'_, PyBytes>) {
        self.command(Command::Send(Bytes::copy_from_slice(message.as_bytes())));
    }

    fn send_metadata(&self, metadata: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<()> {
        self.command(Command::Head(header_map(metadata)?));
        Ok(())
    }

    #[pyo3(signature = (message, code=OK, text=String::new(), trailers=Vec::new()))]
    fn finish(
        &self,
        message: Option<&Bound<'_, PyBytes>>,
        code: u8,
        text: String,
        trailers: Vec<(String, Bound<'_, PyAny>)>,
    ) -> PyResult<()> {
        let message = message.map(|bytes| Bytes::copy_from_slice(bytes.as_bytes()));
        let trailers = header_map(trailers)?;
        self.command(Command::Finish { message, status: Status::new(code, text), trailers });
        self.set_owner(None);
        Ok(())
    }
}

impl Call {
    fn command(&self, command: Command) {
        // A call that has ended meanwhile has nobody left to command.
        let _ = self.state.commands.send(command);
    }
}

/// Which headers are metadata, and not HTTP's or gRPC's own.
fn is_metadata(name: &HeaderName) -> bool {
    let name = name.as_str();
    !matches!(name, "te" | "content-type" | "grpc-timeout" | "grpc-encoding" | "grpc-accept-encoding")
}

type Pair<'py> = (String, Bound<'py, PyAny>);

fn pair_of<'py>(py: Python<'py>, (name, value): (&HeaderName, &HeaderValue)) -> Pair<'py> {
    let value = value.as_bytes();
    let binary = name.as_str().ends_with("-bin").then(|| grpc::decode_binary(value)).flatten();
    let value = match binary {
        Some(bytes) => PyBytes::new(py, &bytes).into_any(),
        None => PyString::new(py, &String::from_utf8_lossy(value)).into_any(),
    };
    (name.as_str().to_owned(), value)
}

fn header_map(metadata: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(metadata.len());
    for (name, value) in metadata {
        let name = HeaderName::try_from(name).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let value = match value.cast::<PyBytes>() {
            Ok(bytes) if name.as_str().ends_with("-bin") => grpc::encode_binary(bytes.as_bytes()).into_bytes(),
            Ok(bytes) => bytes.as_bytes().to_vec(),
            Err(_) => value.extract::<String>()?.into_bytes(),
        };
        let value = HeaderValue::try_from(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// What is known of a call when its headers have come.
pub struct Opening {
    pub method: usize,
    pub streaming: bool,
    pub headers: HeaderMap,
    pub deadline: Option<Instant>,
    pub peer: Arc<str>,
    pub encoding: Encoding,
    pub max_send: usize,
    pub outgoing: Arc<Outgoing>,
}

/// The sending half of a call.
struct Reply {
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    encoding: Encoding,
    max_send: usize,
    outgoing: Arc<Outgoing>,
    metadata: HeaderMap,
}

impl Reply {
    fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.stream {
            Some(stream) => stream.poll_reset(context).map(|_| ()),
            None => self.respond.poll_reset(context).map(|_| ()),
        }
    }

    /// The stream to write to, behind the response's head.
    fn stream(&mut self) -> Result<&mut SendStream<Bytes>, h2::Error> {
        if self.stream.is_none() {
            let mut response = grpc::compressed_response(self.encoding);
            response.headers_mut().extend(std::mem::take(&mut self.metadata));
            self.stream = Some(self.respond.send_response(response, false)?);
        }
        Ok(self.stream.as_mut().expect("it has just been made"))
    }

    fn refuses(&self, message: &Bytes) -> Option<Status> {
        grpc::too_large_to_send(message.len(), self.max_send)
    }

    /// Hands a message to the connection, which keeps it until the caller has room for it.
    fn send(&mut self, message: Bytes) -> Result<(), h2::Error> {
        let Frame { head, tail } = self.encoding.frame(message);
        let frame = Frame { head: self.outgoing.count(head), tail: tail.map(|tail| self.outgoing.count(tail)) };
        send_frame(self.stream()?, frame)
    }

    /// Waits until all that was sent has left.
    async fn flushed(&mut self) -> Result<(), h2::Error> {
        let stream = self.stream()?;
        stream.reserve_capacity(1);
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }

    fn finish(&mut self, message: Option<Bytes>, status: &Status, more: HeaderMap) -> Result<(), h2::Error> {
        if self.stream.is_none() && message.is_none() {
            let mut response = status.response();
            response.headers_mut().extend(std::mem::take(&mut self.metadata));
            response.headers_mut().extend(more);
            return self.respond.send_response(response, true).map(|_| ());
        }
        if let Some(message) = message {
            self.send(message)?;
        }
        let mut trailers = status.trailers();
        trailers.extend(more);
        self.stream()?.send_trailers(trailers)
    }
}

/// Hands a frame to the connection.
pub fn send_frame(stream: &mut SendStream<Bytes>, frame: Frame) -> Result<(), h2::Error> {
    stream.send_data(frame.head, false)?;
    match frame.tail {
        Some(tail) => stream.send_data(tail, false),
        None => Ok(()),
    }
}

/// How the exchange with the handler ended.
enum End {
    Finished,
    Gone,
    Late,
    Refused(Status),
}

/// What came of reading the only message of a unary call; None where it has not all come yet.
pub type Arrived = Option<Result<Rope, ReadError>>;

/// One call, from its first byte to its last.
pub async fn run(
    inbox: Arc<Inbox>,
    opening: Opening,
    mut messages: Messages,
    respond: SendResponse<Bytes>,
    message: Arrived,
) {
    let (commands, orders) = unbounded_channel();
    let Opening { method, streaming, headers, deadline, peer, encoding, max_send, outgoing } = opening;
    let state = Arc::new(CallState { method, headers, deadline, peer, commands, owner: Mutex::new(None) });
    let mut reply = Reply { respond, stream: None, encoding, max_send, outgoing, metadata: HeaderMap::new() };
    let mut exchange = Exchange { inbox, state, begun: false };
    let end = tokio::select! {
        biased;
        end = exchange.run(&mut messages, &mut reply, orders, message, streaming) => end,
        () = until(deadline) => End::Late,
    };
    exchange.end(end, &mut reply);
}

/// Returns when a deadline has passed.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

struct Exchange {
    inbox: Arc<Inbox>,
    state: Arc<CallState>,
    begun: bool,
}

impl Exchange {
    async fn run(
        &mut self,
        messages: &mut Messages,
        reply: &mut Reply,
        orders: UnboundedReceiver<Command>,
        message: Arrived,
        streaming: bool,
    ) -> End {
        let message = match (streaming, message) {
            (true, _) => Ok(None),
            (false, Some(message)) => message.map(Some),
            (false, None) => messages.only().await.map(Some),
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        self.begun = true;
        self.inbox.push(Kind::Begin, Some(&self.state), message.map(Rope::into_bytes));
        match self.obey(messages, reply, orders).await {
            Ok(end) => end,
            Err(_) => End::Gone,
        }
    }

    /// Does what the handler says until it has finished or nobody waits for it.
    async fn obey(
        &mut self,
        messages: &mut Messages,
        reply: &mut Reply,
        mut orders: UnboundedReceiver<Command>,
    ) -> Result<End, h2::Error> {
        let mut reading = false;
        loop {
            let command = tokio::select! {
                biased;
                command = orders.recv() => command,
                message = messages.next(), if reading => {
                    reading = false;
                    match message {
                        Ok(message) => self.tell(Kind::Message, message.map(Rope::into_bytes)),
                        Err(error) => return Ok(error.into()),
                    }
                    continue;
                }
                () = poll_fn(|context| reply.poll_reset(context)) => return Ok(End::Gone),
            };
            match command {
                Some(Command::Read) => reading = true,
                Some(Command::Head(metadata)) => {
                    reply.metadata = metadata;
                    reply.stream()?;
                }
                Some(Command::Send(message)) => {
                    if let Some(status) = reply.refuses(&message) {
                        return Ok(End::Refused(status));
                    }
                    reply.send(message)?;
                    reply.flushed().await?;
                    self.tell(Kind::Sent, None);
                }
                Some(Command::Finish { message, status, trailers }) => {
                    match message.as_ref().and_then(|message| reply.refuses(message)) {
                        Some(status) => reply.finish(None, &status, HeaderMap::new())?,
                        None => reply.finish(message, &status, trailers)?,
                    }
                    return Ok(End::Finished);
                }
                None => return Ok(End::Gone),
            }
        }
    }

    fn tell(&self, kind: Kind, payload: Option<Bytes>) {
        self.inbox.push(kind, Some(&self.state), payload);
    }

    fn end(self, end: End, reply: &mut Reply) {
        let status = match end {
            End::Finished => return,
            End::Gone => None,
            End::Late => Some(Status::new(grpc::DEADLINE_EXCEEDED, "Deadline Exceeded")),
            End::Refused(status) => Some(status),
        };
        if let Some(status) = status {
            // Fails only where the caller has gone, and then there is nobody to tell.
            let _ = reply.finish(None, &status, HeaderMap::new());
        }
        if self.begun {
            self.tell(Kind::Cancelled, None);
        }
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Refused(status) => Self::Refused(status),
            ReadError::Gone => Self::Gone,
        }
    }
}

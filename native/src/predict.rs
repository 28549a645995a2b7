//! The plain Predict: bytes to a task, and a task's answer to bytes.

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use parking_lot::RwLock;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;

use crate::grpc::{self, PREFIX, Status};
use crate::outgoing::Outgoing;
use crate::python;
use crate::queue::Key;
use crate::rope::{Cursor, Rope};
use crate::tasks::Lane;
use crate::tensor::{CONTENT, Dtype, Rows, Values};
use crate::wire;

#[cfg(feature = "fuzzing")]
pub mod fuzzing;

pub const PATH: &str = "/tensorflow.serving.PredictionService/Predict";
const DEFAULT_SIGNATURE: &[u8] = b"serving_default";
const LARGE: usize = 64 * 1024;

/// An input that a signature declares: its alias, its type, and its dimensions beyond axis 0.
struct Input {
    alias: Vec<u8>,
    dtype: Dtype,
    inner: Vec<Option<usize>>,
}

/// One signature of one version: all that a plain request for it is checked against, and where its tasks wait.
#[pyclass(frozen, module = "headrace_native")]
pub struct Route {
    inputs: Vec<Input>,
    one_shape: bool,
    as_content: bool,
    max_rows: usize,
    max_send: usize,
    model_spec: Bytes,
    pub lane: Lane,
    full: (u8, String),
    bounds: Vec<f64>,
    ended: Py<PyAny>,
}

#[pymethods]
impl Route {
    /// None stands for a dimension that varies; `ended` counts calls, and makes a code and a text of an exception.
    #[new]
    #[pyo3(signature = (lane, name, version, signature, inputs, *, max_rows, max_send, as_content, full, bounds, ended))]
    #[expect(clippy::too_many_arguments, reason = "a record that Python fills by name")]
    fn new(
        lane: &Bound<'_, Lane>,
        name: &str,
        version: i64,
        signature: &str,
        inputs: Vec<(String, u64, Vec<Option<usize>>)>,
        max_rows: usize,
        max_send: usize,
        as_content: bool,
        full: (u8, String),
        bounds: Vec<f64>,
        ended: Py<PyAny>,
    ) -> PyResult<Self> {
        let inputs: Vec<Input> = inputs.into_iter().map(Input::new).collect::<PyResult<_>>()?;
        Ok(Self {
            one_shape: inputs.iter().all(|input| input.inner.iter().all(Option::is_some)),
            inputs,
            as_content,
            max_rows,
            max_send,
            model_spec: model_spec(name, version, signature),
            lane: lane.get().clone(),
            full,
            bounds,
            ended,
        })
    }
}

impl Input {
    fn new((alias, dtype, inner): (String, u64, Vec<Option<usize>>)) -> PyResult<Self> {
        let dtype = Dtype::of_number(dtype)
            .ok_or_else(|| pyo3::exceptions::PyValueError::new_err(format!("{alias} has no plain dtype: {dtype}")))?;
        Ok(Self { alias: alias.into_bytes(), dtype, inner })
    }
}

/// The response's effective ModelSpec, as a field of it.
fn model_spec(name: &str, version: i64, signature: &str) -> Bytes {
    let mut number = BytesMut::new();
    if version != 0 {
        wire::put_tag(&mut number, 1, wire::VARINT);
        wire::put_varint(&mut number, version as u64);
    }
    let mut spec = BytesMut::new();
    for (field, value) in [(1, name.as_bytes()), (2, &number), (3, signature.as_bytes())] {
        wire::put_field(&mut spec, field, value.len());
        spec.put_slice(value);
    }
    let mut field = BytesMut::new();
    wire::put_field(&mut field, 2, spec.len());
    field.put_slice(&spec);
    field.freeze()
}

type Signatures = FxHashMap<Vec<u8>, Arc<Py<Route>>>;

#[derive(Default)]
struct Versions {
    latest: i64,
    by_number: FxHashMap<i64, Signatures>,
}

/// Every route there is, replaced as a whole.
#[pyclass(frozen, module = "headrace_native")]
#[derive(Default)]
pub struct Routes(RwLock<FxHashMap<Vec<u8>, Versions>>);

/// Routes as Python gives them: by model, by version, by signature. A version without a plain signature is there, too.
type Published = FxHashMap<String, FxHashMap<i64, FxHashMap<String, Py<Route>>>>;

#[pymethods]
impl Routes {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Replaces all of them.
    fn publish(&self, models: Published) {
        let table = models.into_iter().map(|(name, versions)| {
            let latest = versions.keys().copied().max().unwrap_or(0);
            let by_number = versions.into_iter().map(|(number, routes)| {
                (number, routes.into_iter().map(|(name, route)| (name.into_bytes(), Arc::new(route))).collect())
            });
            (name.into_bytes(), Versions { latest, by_number: by_number.collect() })
        });
        let before = std::mem::replace(&mut *self.0.write(), table.collect());
        drop(before);
    }
}

impl Routes {
    fn find(&self, spec: &Spec) -> Option<Arc<Py<Route>>> {
        let table = self.0.read();
        let versions = table.get(spec.name.bytes()?)?;
        let signatures = versions.by_number.get(&spec.version.unwrap_or(versions.latest))?;
        let signature = if spec.signature.left() == 0 { DEFAULT_SIGNATURE } else { spec.signature.bytes()? };
        signatures.get(signature).cloned()
    }
}

/// One input's values in a request, and its dimensions beyond axis 0.
struct Tensor {
    values: Values,
    inner: Vec<usize>,
}

/// A Predict that waits: where its arrays lie in the received bytes, and its own reply.
pub struct Task {
    pub route: Arc<Py<Route>>,
    pub rows: usize,
    message: Rope,
    tensors: Vec<Tensor>,
    respond: SendResponse<Bytes>,
    outgoing: Arc<Outgoing>,
    came: Instant,
    lapsed: bool,
}

/// A request that has been understood.
pub struct Plain {
    pub route: Arc<Py<Route>>,
    pub rows: usize,
    pub key: Key,
    tensors: Vec<Tensor>,
}

impl Routes {
    /// Understands a plain request; None for any other, good or bad, which is for Python to judge.
    pub fn read(&self, message: &Rope) -> Option<Plain> {
        let request = Request::read(message.cursor())?;
        let route = self.find(&request.spec)?;
        let (tensors, rows) = tensors(&request, &route.get().inputs, route.get().max_rows)?;
        let key = route.get().key(&tensors);
        Some(Plain { route, rows, key, tensors })
    }
}

impl Plain {
    /// What one of its rows takes in a batch.
    pub fn row_bytes(&self) -> usize {
        let inputs = self.route.get().inputs.iter().zip(&self.tensors);
        inputs.map(|(input, tensor)| tensor.inner.iter().product::<usize>() * input.dtype.size()).sum()
    }

    pub fn into_task(self, message: Rope, respond: SendResponse<Bytes>, outgoing: Arc<Outgoing>) -> Task {
        Task {
            route: self.route,
            rows: self.rows,
            message,
            tensors: self.tensors,
            respond,
            outgoing,
            came: Instant::now(),
            lapsed: false,
        }
    }
}

/// A request's tensors in the order of their declarations, and their rows; None unless all fit.
fn tensors(request: &Request<'_>, declared: &[Input], max_rows: usize) -> Option<(Vec<Tensor>, usize)> {
    if request.inputs.len() != declared.len() {
        return None;
    }
    let mut tensors = Vec::with_capacity(declared.len());
    let mut rows = None;
    for input in declared {
        let mut named = request.inputs.iter().filter(|(alias, _)| alias.bytes() == Some(&input.alias));
        let (_, proto) = named.next()?;
        let (tensor, own) = input.read(proto.clone())?;
        if *rows.get_or_insert(own) != own || own > max_rows {
            return None;
        }
        tensors.push(tensor);
    }
    Some((tensors, rows?))
}

impl Route {
    fn key(&self, tensors: &[Tensor]) -> Key {
        if self.one_shape {
            return Key::Any;
        }
        let shapes = tensors.iter().flat_map(|tensor| std::iter::once(tensor.inner.len()).chain(tensor.inner.clone()));
        Key::Shapes(shapes.collect())
    }

    /// Counts calls that have ended with this error, or with an answer, and says how they end.
    pub fn ended(&self, py: Python<'_>, error: Option<&Bound<'_, PyAny>>, seconds: Vec<f64>) -> PyResult<Status> {
        let (tally, total) = self.tally(&seconds);
        let (code, text): (u8, String) = self.ended.bind(py).call1((error, tally, total))?.extract()?;
        Ok(Status::new(code, text))
    }

    /// How many latencies fall into which bucket, and their sum in microseconds.
    fn tally(&self, seconds: &[f64]) -> (Vec<(usize, usize)>, f64) {
        let (mut tally, mut total): (Vec<(usize, usize)>, f64) = (Vec::new(), 0.0);
        for micros in seconds.iter().map(|each| each * 1e6) {
            total += micros;
            let bucket = self.bounds.partition_point(|bound| *bound < micros);
            match tally.iter_mut().find(|(known, _)| *known == bucket) {
                Some((_, count)) => *count += 1,
                None => tally.push((bucket, 1)),
            }
        }
        (tally, total)
    }

    /// How a call ends that found the queue full.
    pub fn full(&self, reason: &str) -> Status {
        Status::new(self.full.0, self.full.1.replace("{}", reason))
    }

    pub fn aliases(&self) -> impl Iterator<Item = (&str, Dtype)> {
        // They came as text.
        self.inputs.iter().map(|input| (std::str::from_utf8(&input.alias).unwrap_or_default(), input.dtype))
    }
}

impl Input {
    /// A tensor that fits this declaration, and its rows.
    fn read(&self, proto: Cursor<'_>) -> Option<(Tensor, usize)> {
        let proto = TensorProto::read(proto)?;
        if proto.dtype != Some(self.dtype) {
            return None;
        }
        let (dims, rank) = proto.shape?;
        let (&rows, inner) = dims[..rank].split_first()?;
        let fits = inner.len() == self.inner.len()
            && inner.iter().zip(&self.inner).all(|(got, want)| want.is_none_or(|want| want == *got));
        let count = dims[..rank].iter().try_fold(1, |product: usize, size| product.checked_mul(*size))?;
        if !fits || count == 0 {
            return None;
        }
        let (field, at) = proto.values?;
        let values = if field == CONTENT {
            Values::content(self.dtype, count, at)?
        } else if field == self.dtype.field() {
            Values::packed(self.dtype, count, at)?
        } else {
            return None;
        };
        Some((Tensor { values, inner: inner.to_vec() }, rows))
    }
}

const MAX_RANK: usize = 8;

/// The fields of a plain TensorProto, each at most once.
#[derive(Default)]
struct TensorProto<'a> {
    dtype: Option<Dtype>,
    shape: Option<([usize; MAX_RANK], usize)>,
    values: Option<(u32, Cursor<'a>)>,
}

impl<'a> TensorProto<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut proto = Self::default();
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::VARINT) if proto.dtype.is_none() => {
                    proto.dtype = Some(Dtype::of_number(wire::varint(&mut at)?)?)
                }
                (2, wire::LENGTH) if proto.shape.is_none() => proto.shape = Some(shape(wire::delimited(&mut at)?)?),
                (field, wire::LENGTH) if field >= CONTENT && proto.values.is_none() => {
                    proto.values = Some((field, wire::delimited(&mut at)?));
                }
                _ => return None,
            }
        }
        Some(proto)
    }
}

/// The dimensions of a TensorShapeProto, all of them known, and how many there are.
fn shape(mut at: Cursor<'_>) -> Option<([usize; MAX_RANK], usize)> {
    let (mut dims, mut rank) = ([0; MAX_RANK], 0);
    while at.left() > 0 {
        let (2, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let mut dim = wire::delimited(&mut at)?;
        // A dimension of 0 is not plain, nor is one with a name.
        let (1, wire::VARINT) = wire::tag(&mut dim)? else { return None };
        *dims.get_mut(rank)? = usize::try_from(i64::try_from(wire::varint(&mut dim)?).ok()?).ok()?;
        rank += 1;
        if dim.left() > 0 {
            return None;
        }
    }
    Some((dims, rank))
}

/// Text that lies in a message.
#[derive(Clone)]
struct Text<'a>(Option<Cursor<'a>>);

impl<'a> Text<'a> {
    fn left(&self) -> usize {
        self.0.as_ref().map_or(0, Cursor::left)
    }

    /// The bytes, if they lie in one piece.
    fn bytes(&self) -> Option<&'a [u8]> {
        self.0.as_ref().map_or(Some(&[]), Cursor::contiguous)
    }

    /// Reads a field that may come once.
    fn fill(&mut self, at: &mut Cursor<'a>) -> Option<()> {
        if self.0.is_some() {
            return None;
        }
        self.0 = Some(wire::delimited(at)?);
        Some(())
    }
}

/// What a plain ModelSpec says.
struct Spec<'a> {
    name: Text<'a>,
    version: Option<i64>,
    signature: Text<'a>,
}

impl<'a> Spec<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut spec = Self { name: Text(None), version: None, signature: Text(None) };
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) => spec.name.fill(&mut at)?,
                (3, wire::LENGTH) => spec.signature.fill(&mut at)?,
                (2, wire::LENGTH) if spec.version.is_none() => spec.version = Some(int64(wire::delimited(&mut at)?)?),
                _ => return None,
            }
        }
        Some(spec)
    }
}

/// An Int64Value.
fn int64(mut at: Cursor<'_>) -> Option<i64> {
    if at.left() == 0 {
        return Some(0);
    }
    let (1, wire::VARINT) = wire::tag(&mut at)? else { return None };
    let value = wire::varint(&mut at)? as i64;
    (at.left() == 0).then_some(value)
}

/// An input takes four bytes of a request and a hundred in memory: more than so many are not plain.
const MAX_INPUTS: usize = 64;

/// A plain PredictRequest: a ModelSpec and inputs, nothing else.
struct Request<'a> {
    spec: Spec<'a>,
    inputs: Vec<(Text<'a>, Cursor<'a>)>,
}

impl<'a> Request<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut spec = None;
        let mut inputs = Vec::new();
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) if spec.is_none() => spec = Some(Spec::read(wire::delimited(&mut at)?)?),
                (2, wire::LENGTH) if inputs.len() < MAX_INPUTS => inputs.push(entry(wire::delimited(&mut at)?)?),
                _ => return None,
            }
        }
        Some(Self { spec: spec?, inputs })
    }
}

/// An entry of the map of inputs.
fn entry(mut at: Cursor<'_>) -> Option<(Text<'_>, Cursor<'_>)> {
    let (mut alias, mut tensor) = (Text(None), None);
    while at.left() > 0 {
        match wire::tag(&mut at)? {
            (1, wire::LENGTH) => alias.fill(&mut at)?,
            (2, wire::LENGTH) if tensor.is_none() => tensor = Some(wire::delimited(&mut at)?),
            _ => return None,
        }
    }
    Some((alias, tensor?))
}

/// One output of a batch: its alias, its shape beyond axis 0, and its bytes.
pub struct Output<'a> {
    pub alias: &'a str,
    pub dtype: Dtype,
    pub inner: &'a [usize],
    pub bytes: &'a [u8],
}

impl<'a> Output<'a> {
    fn rows(&self, start: usize, stop: usize) -> Rows<'a> {
        let row = self.inner.iter().product::<usize>() * self.dtype.size();
        Rows { dtype: self.dtype, rows: stop - start, inner: self.inner, bytes: &self.bytes[start * row..stop * row] }
    }
}

impl Task {
    /// The dimensions of an input beyond axis 0.
    pub fn inner(&self, input: usize) -> &[usize] {
        &self.tensors[input].inner
    }

    /// Writes an input as an array's bytes; `target` has room for exactly all.
    pub fn copy_to(&self, input: usize, dtype: Dtype, target: &mut [u8]) {
        self.tensors[input].values.copy_to(&self.message, dtype, target);
    }

    /// Whether nobody waits for it any more.
    pub fn gone(&mut self) -> bool {
        self.lapsed || self.left()
    }

    /// Says so, once; a caller whose deadline has passed is told.
    pub fn lapse(&mut self, late: bool) -> Option<Lapse> {
        if self.lapsed || !(late || self.left()) {
            return None;
        }
        self.lapsed = true;
        if late {
            let status = Status::new(grpc::DEADLINE_EXCEEDED, "Deadline Exceeded");
            end(&mut self.respond, &status);
        }
        Some(Lapse { route: self.route.clone(), late, seconds: self.seconds() })
    }

    fn left(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        // Where a connection has broken down inside, its caller has left.
        python::sheltered(|| self.respond.poll_reset(&mut context).is_ready()).unwrap_or(true)
    }

    /// Encodes its rows, from `start` on, of each output; `out` is where bytes are written that many tasks share.
    pub fn answer(self, outputs: &[Output<'_>], start: usize, out: &mut BytesMut) -> Answer {
        let (route, stop) = (self.route.get(), start + self.rows);
        let tensors: Vec<_> = outputs.iter().map(|output| (output.alias, output.rows(start, stop))).collect();
        let lengths: Vec<_> = tensors.iter().map(|(_, rows)| rows.encoded_len(route.as_content)).collect();
        let entries = tensors.iter().zip(&lengths).map(|((alias, _), len)| wire::field_len(1, entry_len(alias, *len)));
        let len = entries.sum::<usize>() + route.model_spec.len();
        if let Some(refusal) = grpc::too_large_to_send(len, route.max_send) {
            return Answer { respond: self.respond, content: Err(Box::new(refusal)), came: self.came };
        }
        if len > LARGE {
            // It would keep the bytes of all others alive for as long as it takes to send.
            *out = BytesMut::with_capacity(PREFIX + len);
        }
        out.reserve(PREFIX + len);
        out.put_u8(0);
        out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        for ((alias, rows), len) in tensors.iter().zip(lengths) {
            wire::put_field(out, 1, entry_len(alias, len));
            wire::put_field(out, 1, alias.len());
            out.put_slice(alias.as_bytes());
            wire::put_field(out, 2, len);
            rows.encode(route.as_content, out);
        }
        out.put_slice(&route.model_spec);
        let frame = self.outgoing.count(out.split().freeze());
        Answer { respond: self.respond, content: Ok(frame), came: self.came }
    }

    /// Since when it has been waited for.
    pub fn seconds(&self) -> f64 {
        self.came.elapsed().as_secs_f64()
    }

    /// Answers with a status alone.
    pub fn refuse(mut self, status: &Status) {
        end(&mut self.respond, status);
    }

    /// What it was made of, for who judges it anew.
    pub fn into_parts(self) -> (Rope, SendResponse<Bytes>) {
        (self.message, self.respond)
    }
}

/// A task for which nobody waits any more, or whose deadline has passed, and how long it has waited.
pub struct Lapse {
    route: Arc<Py<Route>>,
    late: bool,
    seconds: f64,
}

impl Lapse {
    pub fn count(self, py: Python<'_>) -> PyResult<()> {
        let error = if self.late { &python::TIMED_OUT } else { &python::CANCELLED }.call(py, ())?;
        self.route.get().ended(py, Some(&error), vec![self.seconds]).map(|_| ())
    }
}

/// Calls of one route that found the queue full, and how long each took.
pub struct Refused {
    route: Arc<Py<Route>>,
    seconds: Vec<f64>,
}

impl Refused {
    /// Adds a call to those of its route.
    pub fn add(all: &mut Vec<Self>, route: &Arc<Py<Route>>, seconds: f64) {
        match all.iter_mut().find(|known| Arc::ptr_eq(&known.route, route)) {
            Some(known) => known.seconds.push(seconds),
            None => all.push(Self { route: route.clone(), seconds: vec![seconds] }),
        }
    }

    pub fn count(self, py: Python<'_>) -> PyResult<()> {
        let error = python::QUEUE_FULL.call(py, ("",))?;
        self.route.get().ended(py, Some(&error), self.seconds).map(|_| ())
    }
}

/// An encoded answer, or why there is none, and the way to its caller.
pub struct Answer {
    respond: SendResponse<Bytes>,
    content: Result<Bytes, Box<Status>>,
    came: Instant,
}

impl Answer {
    /// How long the caller has waited.
    pub fn seconds(&self) -> f64 {
        self.came.elapsed().as_secs_f64()
    }

    /// Hands it to the connection. Fails only where the caller has gone, or the connection has broken down inside, which
    /// concerns none of the others that this thread answers.
    pub fn send(self) {
        let _ = python::sheltered(|| self.try_send());
    }

    fn try_send(self) -> Result<(), h2::Error> {
        let mut respond = self.respond;
        let frame = match self.content {
            Ok(frame) => frame,
            Err(refusal) => return respond.send_response(refusal.response(), true).map(|_| ()),
        };
        let mut stream = respond.send_response(grpc::response(), false)?;
        stream.send_data(frame, false)?;
        stream.send_trailers(grpc::ok_trailers())
    }
}

/// Answers with a status alone; as `Answer::send`.
fn end(respond: &mut SendResponse<Bytes>, status: &Status) {
    let _ = python::sheltered(|| respond.send_response(status.response(), true));
}

fn entry_len(alias: &str, tensor: usize) -> usize {
    wire::field_len(1, alias.len()) + wire::field_len(2, tensor)
}

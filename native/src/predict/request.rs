//! Parses a plain request: fields that appear at most once, and tensors that fit their declarations.

use smallvec::SmallVec;

use crate::protobuf::{CONTENT, Cursor, Dtype, Rope, Values, texts, wire};

/// An input that a signature declares: its alias, its type, and its dimensions beyond axis 0.
#[derive(Clone)]
pub struct Input {
    pub alias: Vec<u8>,
    pub dtype: Dtype,
    pub inner: Vec<Option<usize>>,
}

impl Input {
    /// An input whose type has this `number` in types.proto; None for a type that plain tensors do not have.
    pub fn new(alias: String, number: u64, inner: Vec<Option<usize>>) -> Option<Self> {
        Some(Self { alias: alias.into_bytes(), dtype: Dtype::of_number(number)?, inner })
    }

    /// Whether axis 0 may have this size, for a signature without a batch axis.
    pub fn takes_rows(&self, rows: usize) -> bool {
        self.inner.first().is_some_and(|declared| declared.is_none_or(|declared| declared == rows))
    }

    /// The input's alias and type.
    pub fn named(&self) -> (&str, Dtype) {
        // The alias is valid UTF-8, since it was declared as a string.
        (std::str::from_utf8(&self.alias).unwrap_or_default(), self.dtype)
    }
}

/// One input's values in a request, and its dimensions beyond axis 0.
pub struct Tensor {
    pub values: Contents,
    pub inner: SmallVec<[usize; 4]>,
}

/// The tensors of a request.
pub type Tensors = SmallVec<[Tensor; 1]>;

/// The positions of a tensor's values in the message.
pub enum Contents {
    Numbers(Values),
    /// The positions of strings.
    Strings(Vec<u8>),
}

impl Tensor {
    /// Makes a tensor of numbers.
    pub fn of(values: Values, inner: &[usize]) -> Self {
        Self { values: Contents::Numbers(values), inner: SmallVec::from_slice(inner) }
    }

    /// The number of bytes that the tensor takes in memory besides its message.
    pub fn held(&self) -> usize {
        match &self.values {
            Contents::Numbers(_) => 0,
            Contents::Strings(places) => places.len(),
        }
    }

    /// Writes the tensor's numbers as an array's bytes; `target` has exactly their size.
    pub fn copy_to(&self, message: &Rope, dtype: Dtype, target: &mut [u8]) {
        if let Contents::Numbers(values) = &self.values {
            values.copy_to(message, dtype, target);
        }
    }

    /// Visits the strings in their order.
    pub fn strings(&self, message: &Rope, visit: &mut dyn FnMut(&[u8])) {
        if let Contents::Strings(places) = &self.values {
            texts::visit(places, message, visit);
        }
    }
}

/// One input's elements, little-endian as in an array, and its dimensions beyond axis 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub inner: Vec<usize>,
    pub bytes: Vec<u8>,
    /// The text that contains the elements, if they are strings.
    pub text: Vec<u8>,
}

impl Column {
    /// The size of the column in bytes.
    pub fn held(&self) -> usize {
        self.bytes.len() + self.text.len()
    }

    /// Visits the strings in their order.
    pub fn strings(&self, visit: &mut dyn FnMut(&[u8])) {
        texts::strings(&self.bytes, &self.text).for_each(visit);
    }
}

/// A request's tensors in the order of their declarations, and their rows; None unless all fit. If there is no batch
/// axis, a declaration has all dimensions, and the request counts as one row.
pub fn tensors(request: &Request<'_>, declared: &[Input], max_rows: Option<usize>) -> Option<(Tensors, usize)> {
    if request.inputs.len() != declared.len() {
        return None;
    }
    let mut tensors = Tensors::with_capacity(declared.len());
    let mut rows = None;
    for input in declared {
        let mut named = request.inputs.iter().filter(|(alias, _)| alias.bytes() == Some(&input.alias));
        let (_, proto) = named.next()?;
        let proto = TensorProto::read(proto.clone())?;
        let Some(max_rows) = max_rows else {
            let (dims, rank) = proto.shape?;
            tensors.push(input.read(&proto, &dims[..rank], 1)?);
            rows = Some(1);
            continue;
        };
        let (dims, rank) = proto.shape?;
        let (&own, inner) = dims[..rank].split_first()?;
        let tensor = input.read(&proto, inner, own)?;
        if *rows.get_or_insert(own) != own || own > max_rows {
            return None;
        }
        tensors.push(tensor);
    }
    Some((tensors, rows?))
}

impl Input {
    /// The tensor in `proto`, with this many rows of these dimensions; None if it does not fit this declaration.
    fn read(&self, proto: &TensorProto<'_>, inner: &[usize], rows: usize) -> Option<Tensor> {
        if proto.dtype != Some(self.dtype) {
            return None;
        }
        let fits = inner.len() == self.inner.len()
            && inner.iter().zip(&self.inner).all(|(got, want)| want.is_none_or(|want| want == *got));
        let count = inner.iter().try_fold(rows, |product: usize, size| product.checked_mul(*size))?;
        if !fits || count == 0 {
            return None;
        }
        if self.dtype == Dtype::String {
            let places = proto.strings(count)?;
            return Some(Tensor { values: Contents::Strings(places), inner: SmallVec::from_slice(inner) });
        }
        let (field, at) = proto.values.clone()?;
        let values = if field == CONTENT {
            Values::content(self.dtype, count, at)?
        } else if field == self.dtype.field() {
            Values::packed(self.dtype, count, at)?
        } else {
            return None;
        };
        if proto.strings.is_some() {
            return None;
        }
        Some(Tensor::of(values, inner))
    }
}

/// If a tensor has more dimensions than this, the request is not plain.
const MAX_RANK: usize = 8;

/// The fields of a plain TensorProto, each at most once.
#[derive(Default)]
struct TensorProto<'a> {
    dtype: Option<Dtype>,
    shape: Option<([usize; MAX_RANK], usize)>,
    values: Option<(u32, Cursor<'a>)>,
    /// The number of strings, and the position of the first field with one.
    strings: Option<(usize, Cursor<'a>)>,
}

impl<'a> TensorProto<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut proto = Self::default();
        while at.left() > 0 {
            let before = at.clone();
            match wire::tag(&mut at)? {
                (field, wire::LENGTH) if field == Dtype::String.field() => {
                    proto.strings.get_or_insert((0, before)).0 += 1;
                    wire::delimited(&mut at)?;
                }
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

    /// The positions of the strings, if the tensor has exactly this many and no other values.
    fn strings(&self, count: usize) -> Option<Vec<u8>> {
        let (found, mut at) = self.strings.clone()?;
        (found == count && self.values.is_none()).then_some(())?;
        let mut places = Vec::with_capacity(count * texts::SPAN);
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (field, wire::LENGTH) => {
                    let value = wire::delimited(&mut at)?;
                    if field == Dtype::String.field() {
                        texts::put_span(value.position(), value.left(), &mut places)?;
                    }
                }
                _ => drop(wire::varint(&mut at)?),
            }
        }
        Some(places)
    }
}

/// Parses a TensorShapeProto whose dimensions are all known: the dimensions, and their number.
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

/// Text within a message.
#[derive(Clone, Default)]
pub struct Text<'a>(Option<Cursor<'a>>);

impl<'a> Text<'a> {
    pub fn left(&self) -> usize {
        self.0.as_ref().map_or(0, Cursor::left)
    }

    /// The bytes, if they are contiguous.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        self.0.as_ref().map_or(Some(&[]), Cursor::contiguous)
    }

    /// Reads a field that may appear once.
    pub fn fill(&mut self, at: &mut Cursor<'a>) -> Option<()> {
        if self.0.is_some() {
            return None;
        }
        self.0 = Some(wire::delimited(at)?);
        Some(())
    }
}

/// The version that a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version<'a> {
    #[default]
    Latest,
    Number(i64),
    Label(&'a [u8]),
}

impl From<Option<i64>> for Version<'_> {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Self::Latest, Self::Number)
    }
}

/// The content of a plain ModelSpec.
pub struct Spec<'a> {
    pub name: Text<'a>,
    pub version: Version<'a>,
    pub signature: Text<'a>,
}

impl<'a> Spec<'a> {
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut spec = Self { name: Text(None), version: Version::Latest, signature: Text(None) };
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) => spec.name.fill(&mut at)?,
                (3, wire::LENGTH) => spec.signature.fill(&mut at)?,
                (field @ (2 | 4), wire::LENGTH) if spec.version == Version::Latest => {
                    spec.version = version(field, wire::delimited(&mut at)?)?;
                }
                _ => return None,
            }
        }
        Some(spec)
    }
}

/// Parses the version in one of the two fields that a ModelSpec has for it: a number or a label.
fn version(field: u32, at: Cursor<'_>) -> Option<Version<'_>> {
    match field {
        2 => int64(at).map(Version::Number),
        _ => at.contiguous().filter(|label| std::str::from_utf8(label).is_ok()).map(Version::Label),
    }
}

/// Parses an Int64Value.
fn int64(mut at: Cursor<'_>) -> Option<i64> {
    if at.left() == 0 {
        return Some(0);
    }
    let (1, wire::VARINT) = wire::tag(&mut at)? else { return None };
    let value = wire::varint(&mut at)? as i64;
    (at.left() == 0).then_some(value)
}

/// A request with more inputs than this is not plain: an input can be four bytes in a request but takes a hundred in
/// memory.
const MAX_INPUTS: usize = 64;

/// If a model has more outputs than this, requests that name outputs are not plain.
const MAX_OUTPUTS: usize = 64;

/// A plain PredictRequest: a ModelSpec, inputs, and perhaps names of outputs.
pub struct Request<'a> {
    pub spec: Spec<'a>,
    /// The aliases of the wanted outputs; empty means all outputs.
    pub wanted: Vec<Text<'a>>,
    inputs: Vec<(Text<'a>, Cursor<'a>)>,
}

impl<'a> Request<'a> {
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let mut spec = None;
        let (mut inputs, mut wanted) = (Vec::new(), Vec::new());
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (3, wire::LENGTH) if wanted.len() < MAX_OUTPUTS => wanted.push(Text(Some(wire::delimited(&mut at)?))),
                (1, wire::LENGTH) if spec.is_none() => spec = Some(Spec::read(wire::delimited(&mut at)?)?),
                (2, wire::LENGTH) if inputs.len() < MAX_INPUTS => inputs.push(entry(wire::delimited(&mut at)?)?),
                _ => return None,
            }
        }
        Some(Self { spec: spec?, wanted, inputs })
    }
}

/// Parses an entry of the map of inputs: an alias and a tensor.
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

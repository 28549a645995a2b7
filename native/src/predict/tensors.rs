//! Parses the tensors of a plain request, if they fit their declarations.

use smallvec::SmallVec;

use super::inputs::{Contents, Input, Tensor, Tensors};
use super::request::Request;
use crate::protobuf::{CONTENT, Cursor, Dtype, Values, texts, wire};

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
        let mut places = Vec::new();
        places.try_reserve_exact(count.checked_mul(texts::SPAN)?).ok()?;
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

//! Parses a plain ModelInferRequest: raw contents for every input, or every input in shared memory.

use super::{Part, Regions, datatype};
use crate::predict::{self, Input, Tensor};
use crate::protobuf::{Cursor, Dtype, Values, wire};

/// A request with more inputs than this is not plain: each takes only a few bytes of a request but many more in memory.
const MAX_INPUTS: usize = 64;

/// If a tensor has more dimensions than this, the request is not plain.
const MAX_RANK: usize = 8;

/// A plain request: its names, its inputs, and their raw contents, in the same order.
pub struct Request<'a> {
    pub model: &'a [u8],
    pub version: Option<i64>,
    /// The request's ID, in UTF-8.
    pub id: &'a [u8],
    inputs: Vec<InputTensor<'a>>,
    outputs: Vec<&'a [u8]>,
    raw: Vec<Cursor<'a>>,
}

impl<'a> Request<'a> {
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (mut model, mut version, mut id) = (None, None, None);
        let (mut inputs, mut outputs, mut raw) = (Vec::new(), Vec::new(), Vec::new());
        while at.left() > 0 {
            let (field, wire::LENGTH) = wire::tag(&mut at)? else { return None };
            let value = wire::delimited(&mut at)?;
            match field {
                1 => once(&mut model, value.contiguous()?)?,
                2 => once(&mut version, value.contiguous()?)?,
                3 => once(&mut id, value.contiguous()?)?,
                5 if inputs.len() < MAX_INPUTS => inputs.push(InputTensor::read(value)?),
                6 if outputs.len() < MAX_INPUTS => outputs.push(name_alone(value)?),
                7 if raw.len() < MAX_INPUTS => raw.push(value),
                _ => return None,
            }
        }
        let id = id.unwrap_or_default();
        std::str::from_utf8(id).ok()?;
        let version = version.map(number).unwrap_or(Some(None))?;
        Some(Self { model: model?, version, id, inputs, outputs, raw })
    }

    /// Whether the request names these outputs, each once, or no outputs.
    pub fn wants(&self, all: &[Vec<u8>]) -> bool {
        let named = |output: &Vec<u8>| self.outputs.iter().filter(|name| **name == output.as_slice()).count() == 1;
        self.outputs.is_empty() || (self.outputs.len() == all.len() && all.iter().all(named))
    }
}

/// A tensor in shared memory, and its dimensions beyond axis 0.
pub struct SharedTensor {
    pub part: Part,
    pub inner: Vec<usize>,
}

/// A request's tensors in the order of their declarations.
pub enum Tensors {
    Raw(predict::Tensors),
    Shared(Vec<SharedTensor>),
}

impl Tensors {
    /// The tensors of a request, and its rows; None unless all fit their declarations.
    pub fn of(request: &Request<'_>, declared: &[Input], max_rows: usize, regions: &Regions) -> Option<(Self, usize)> {
        if request.inputs.len() != declared.len() {
            return None;
        }
        if request.raw.is_empty() {
            let shared = |at: usize, input: &Input| request.inputs[at].fit_shared(input, regions);
            let (tensors, rows) = in_order(request, declared, max_rows, shared)?;
            return Some((Self::Shared(tensors), rows));
        }
        (request.raw.len() == declared.len()).then_some(())?;
        let raw = |at: usize, input: &Input| request.inputs[at].fit(input, request.raw[at].clone());
        let (tensors, rows) = in_order(request, declared, max_rows, raw)?;
        Some((Self::Raw(tensors), rows))
    }
}

/// The result of `make` for each input, in the order of the declarations, and the inputs' common number of rows.
fn in_order<T, Several: Extend<T> + Default>(
    request: &Request<'_>,
    declared: &[Input],
    max_rows: usize,
    make: impl Fn(usize, &Input) -> Option<(T, usize)>,
) -> Option<(Several, usize)> {
    let mut tensors = Several::default();
    let mut rows = None;
    for input in declared {
        let at = request.inputs.iter().position(|tensor| tensor.name == input.alias.as_slice())?;
        let (tensor, own) = make(at, input)?;
        if *rows.get_or_insert(own) != own || own > max_rows {
            return None;
        }
        tensors.extend([tensor]);
    }
    Some((tensors, rows?))
}

/// One input without its values.
struct InputTensor<'a> {
    name: &'a [u8],
    datatype: &'a [u8],
    dims: [usize; MAX_RANK],
    rank: usize,
    shared: Option<Shared<'a>>,
}

/// The position of an input in shared memory.
#[derive(Clone, Copy, Default)]
struct Shared<'a> {
    region: Option<&'a [u8]>,
    offset: Option<u64>,
    size: Option<u64>,
}

impl<'a> InputTensor<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (mut name, mut datatype, mut shape, mut shared) = (None, None, None, None);
        while at.left() > 0 {
            let (field, wire::LENGTH) = wire::tag(&mut at)? else { return None };
            let value = wire::delimited(&mut at)?;
            match field {
                1 => once(&mut name, value.contiguous()?)?,
                2 => once(&mut datatype, value.contiguous()?)?,
                3 => once(&mut shape, packed(value)?)?,
                4 => shared.get_or_insert_with(Shared::default).read(value)?,
                _ => return None,
            }
        }
        let (dims, rank) = shape?;
        Some(Self { name: name?, datatype: datatype?, dims, rank, shared })
    }

    /// The input as a tensor that fits a declaration, with its values, and its rows.
    fn fit(&self, input: &Input, raw: Cursor<'_>) -> Option<(Tensor, usize)> {
        let (rows, inner, count) = self.shape(input)?;
        let values = Values::content(input.dtype, count, raw).filter(|_| self.shared.is_none())?;
        Some((Tensor::of(values, inner), rows))
    }

    /// The input as a tensor in shared memory that fits a declaration, and its rows.
    fn fit_shared(&self, input: &Input, regions: &Regions) -> Option<(SharedTensor, usize)> {
        let (rows, inner, count) = self.shape(input)?;
        let Shared { region, offset, size } = self.shared?;
        let bytes = count.checked_mul(input.dtype.size())?;
        // Bools and strings are not plain, since every byte of them would have to be checked.
        let is_plain = size == Some(bytes as u64) && !matches!(input.dtype, Dtype::Bool | Dtype::String);
        let part = regions.part(region?, offset.unwrap_or_default(), bytes).filter(|_| is_plain)?;
        Some((SharedTensor { part, inner: inner.to_vec() }, rows))
    }

    /// The input's rows, its other dimensions and its number of elements, if they are as declared.
    fn shape(&self, input: &Input) -> Option<(usize, &[usize], usize)> {
        let (&rows, inner) = self.dims[..self.rank].split_first()?;
        let fits = self.datatype == datatype(input.dtype).as_bytes()
            && inner.len() == input.inner.len()
            && inner.iter().zip(&input.inner).all(|(got, want)| want.is_none_or(|want| want == *got));
        let count = self.dims[..self.rank].iter().try_fold(1, |product: usize, size| product.checked_mul(*size))?;
        (fits && count > 0).then_some((rows, inner, count))
    }
}

impl<'a> Shared<'a> {
    /// Reads one parameter of a shared-memory input: a map entry with its name and its value.
    fn read(&mut self, mut at: Cursor<'a>) -> Option<()> {
        let (1, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let name = wire::delimited(&mut at)?.contiguous()?;
        let (2, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let mut value = wire::delimited(&mut at)?;
        match (name, wire::tag(&mut value)?) {
            (b"shared_memory_region", (3, wire::LENGTH)) => {
                once(&mut self.region, wire::delimited(&mut value)?.contiguous()?)?;
            }
            (b"shared_memory_byte_size", (2, wire::VARINT)) => once(&mut self.size, wire::varint(&mut value)?)?,
            (b"shared_memory_offset", (2, wire::VARINT)) => once(&mut self.offset, wire::varint(&mut value)?)?,
            _ => return None,
        }
        (at.left() == 0 && value.left() == 0).then_some(())
    }
}

/// Parses a packed field: its dimensions, and their number.
fn packed(mut at: Cursor<'_>) -> Option<([usize; MAX_RANK], usize)> {
    let (mut dims, mut rank) = ([0; MAX_RANK], 0);
    while at.left() > 0 {
        let size = i64::try_from(wire::varint(&mut at)?).ok()?;
        *dims.get_mut(rank)? = usize::try_from(size).ok()?;
        rank += 1;
    }
    Some((dims, rank))
}

/// Parses an output that is requested without parameters, and returns its name.
fn name_alone(mut at: Cursor<'_>) -> Option<&[u8]> {
    let (1, wire::LENGTH) = wire::tag(&mut at)? else { return None };
    let name = wire::delimited(&mut at)?;
    (at.left() == 0).then(|| name.contiguous())?
}

/// Parses a version: `Some(None)` for an empty text, None for a text with anything but digits.
fn number(text: &[u8]) -> Option<Option<i64>> {
    if text.is_empty() {
        return Some(None);
    }
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok().map(Some)
}

/// Sets a value that may be given only once.
fn once<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.replace(value).is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protobuf::{Rope, Writer};

    fn field(number: u32, value: &[u8]) -> Vec<u8> {
        let message = Writer::message(|out| {
            out.field(number, value.len());
            out.slice(value);
        });
        message.to_vec()
    }

    fn input(name: &str, datatype: &str, shape: &[u8]) -> Vec<u8> {
        field(5, &[field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, shape)].concat())
    }

    fn declared() -> Vec<Input> {
        vec![Input { alias: b"x".to_vec(), dtype: Dtype::Float, inner: vec![Some(2)] }]
    }

    /// The decoded rows of a request with these fields after the model's name.
    fn rows(fields: &[Vec<u8>]) -> Option<usize> {
        let message = Rope::from(Bytes::from([field(1, b"m"), fields.concat()].concat()));
        let request = Request::read(message.cursor())?;
        Tensors::of(&request, &declared(), 8, &Regions::default()).map(|(_, rows)| rows)
    }

    #[test]
    fn plain_requests() {
        let values = field(7, &[0; 24]);
        assert_eq!(rows(&[input("x", "FP32", &[3, 2]), values.clone()]), Some(3));
        assert_eq!(rows(&[values, input("x", "FP32", &[3, 2]), field(3, b"id"), field(2, b"12")]), Some(3));
    }

    #[test]
    fn requests_that_are_not_plain() {
        let (good, values) = (input("x", "FP32", &[3, 2]), field(7, &[0; 24]));
        for fields in [
            vec![good.clone()],
            vec![good.clone(), field(7, &[0; 20])],
            vec![good.clone(), values.clone(), values.clone()],
            vec![good.clone(), good.clone(), values.clone()],
            vec![input("y", "FP32", &[3, 2]), values.clone()],
            vec![input("x", "INT32", &[3, 2]), values.clone()],
            vec![input("x", "FP32", &[2, 3]), values.clone()],
            vec![input("x", "FP32", &[6]), values.clone()],
            vec![input("x", "FP32", &[0, 2]), field(7, &[])],
            vec![input("x", "FP32", &[9, 2]), field(7, &[0; 72])],
            vec![good.clone(), values.clone(), field(2, b"1x")],
            vec![good.clone(), values.clone(), field(3, &[0xff])],
            vec![good.clone(), values.clone(), field(4, &[])],
            vec![good, values, field(1, b"m")],
        ] {
            assert_eq!(rows(&fields), None);
        }
    }

    #[test]
    fn outputs_are_all_or_none() {
        let wants = |outputs: &[&str]| {
            let named: Vec<_> = outputs.iter().map(|name| field(6, &field(1, name.as_bytes()))).collect();
            let message = Rope::from(Bytes::from([field(1, b"m"), named.concat()].concat()));
            Request::read(message.cursor()).is_some_and(|request| request.wants(&[b"a".to_vec(), b"b".to_vec()]))
        };
        assert!(wants(&[]) && wants(&["a", "b"]) && wants(&["b", "a"]));
        assert!(!wants(&["a"]) && !wants(&["a", "a"]) && !wants(&["a", "c"]) && !wants(&["a", "b", "b"]));
    }
}

//! The body of a plain infer: JSON that names every input once, and the bytes of those whose values are binary data.

use bytes::Bytes;

use super::values::read_values;
use crate::json::{Reader, once};
use crate::open_inference::datatype;
use crate::predict::Input;
use crate::protobuf::Dtype;

/// A body with more inputs or outputs than this is not plain: each takes only a few bytes of a body but many more in
/// memory.
const MAX_TENSORS: usize = 64;

/// If a tensor has more dimensions than this, the body is not plain.
const MAX_RANK: usize = 8;

/// The maximum number of bytes that are allocated for a tensor's values before they have been read.
const RESERVED: usize = 4 << 10;

/// An output that a signature declares.
#[derive(Clone, Debug)]
pub struct Output {
    pub name: Vec<u8>,
    pub dtype: Dtype,
}

/// A decoded body.
pub struct Body {
    /// The request's ID; empty if there is none.
    pub id: String,
    pub rows: usize,
    /// The inputs, in the order in which they are declared.
    pub tensors: Vec<Tensor>,
    /// For each declared output, whether it is wanted as binary data after the JSON.
    pub binary: Vec<bool>,
}

/// One input's elements, little-endian as in an array, and its dimensions beyond axis 0.
#[derive(Debug)]
pub struct Tensor {
    pub inner: Vec<usize>,
    pub bytes: Bytes,
}

impl Body {
    /// Parses `data`, of which `json` bytes are JSON, for a model that declares these inputs and outputs.
    pub fn read(data: &Bytes, json: usize, inputs: &[Input], outputs: &[Output], max_rows: usize) -> Option<Self> {
        let sent = Sent::read(&mut Reader::new(data.get(..json)?), inputs)?;
        let binary = sent.binary(outputs)?;
        let id = std::str::from_utf8(sent.id).ok()?.to_owned();
        let (tensors, rows) = sent.tensors(data, json, inputs)?;
        (rows <= max_rows).then_some(Self { id, rows, tensors, binary })
    }
}

/// The content of the JSON.
#[derive(Default)]
struct Sent<'a> {
    id: &'a [u8],
    /// Whether outputs that are not named are wanted as binary data.
    binary_output: bool,
    inputs: Vec<SentInput<'a>>,
    /// The named outputs, and whether each is wanted as binary data.
    outputs: Option<Vec<(&'a [u8], bool)>>,
}

impl<'a> Sent<'a> {
    fn read(reader: &mut Reader<'a>, declared: &[Input]) -> Option<Self> {
        let (mut id, mut binary, mut inputs, mut outputs) = (None, None, None, None);
        reader.object(|key, reader| match key {
            b"id" => once(&mut id, reader.string()?),
            b"parameters" => once(&mut binary, read_flag(reader, b"binary_data_output")?),
            b"inputs" => once(&mut inputs, read_some(reader, |reader| SentInput::read(reader, declared))?),
            b"outputs" => once(&mut outputs, read_some(reader, read_output)?),
            _ => None,
        })?;
        reader.peek().is_none().then_some(())?;
        let (id, binary_output) = (id.unwrap_or_default(), binary.unwrap_or_default());
        Some(Self { id, binary_output, inputs: inputs?, outputs })
    }

    /// For each declared output, whether it is wanted as binary data; None unless all are wanted, each once.
    fn binary(&self, declared: &[Output]) -> Option<Vec<bool>> {
        let binary = match &self.outputs {
            None => vec![self.binary_output; declared.len()],
            Some(named) => {
                (named.len() == declared.len()).then_some(())?;
                let wanted =
                    |output: &Output| named.iter().find(|(name, _)| *name == output.name).map(|(_, binary)| *binary);
                declared.iter().map(wanted).collect::<Option<_>>()?
            }
        };
        let has_values = |(output, binary): (&Output, &bool)| *binary || output.dtype != Dtype::Half;
        declared.iter().zip(&binary).all(has_values).then_some(binary)
    }

    /// The tensors in the order of their declarations, and their rows; None unless all fit their declarations, and no
    /// bytes are left over.
    fn tensors(self, data: &Bytes, json: usize, declared: &[Input]) -> Option<(Vec<Tensor>, usize)> {
        (self.inputs.len() == declared.len()).then_some(())?;
        let (mut at, mut rows) = (json, None);
        let mut tensors: Vec<Option<Tensor>> = declared.iter().map(|_| None).collect();
        for sent in self.inputs {
            let number = declared.iter().position(|input| input.alias == sent.name)?;
            let (tensor, own) = sent.fit(&declared[number], data, &mut at)?;
            (*rows.get_or_insert(own) == own).then_some(())?;
            once(&mut tensors[number], tensor)?;
        }
        let tensors = tensors.into_iter().collect::<Option<_>>()?;
        (at == data.len()).then_some((tensors, rows?))
    }
}

/// One input.
struct SentInput<'a> {
    name: &'a [u8],
    datatype: &'a [u8],
    dims: [usize; MAX_RANK],
    rank: usize,
    values: Values<'a>,
}

/// The values of an input.
enum Values<'a> {
    /// JSON that has been parsed as elements of this type.
    Read(Dtype, Vec<u8>),
    /// JSON that has not been parsed, since it comes before the name that determines its type.
    Ahead(Reader<'a>),
    /// Binary data: this many bytes after the JSON.
    Behind(usize),
}

impl<'a> SentInput<'a> {
    fn read(reader: &mut Reader<'a>, declared: &[Input]) -> Option<Self> {
        let (mut name, mut datatype, mut shape, mut values) = (None, None, None, None);
        reader.object(|key, reader| match key {
            b"name" => once(&mut name, reader.string()?),
            b"datatype" => once(&mut datatype, reader.string()?),
            b"shape" => once(&mut shape, read_shape(reader)?),
            b"data" => once(&mut values, read_data(reader, name, declared)?),
            b"parameters" => once(&mut values, Values::Behind(read_size(reader)?)),
            _ => None,
        })?;
        let (dims, rank) = shape?;
        Some(Self { name: name?, datatype: datatype?, dims, rank, values: values? })
    }

    /// Returns the input as a tensor that fits a declaration, and its rows. Binary data starts at the position `at`,
    /// which is advanced.
    fn fit(self, input: &Input, data: &Bytes, at: &mut usize) -> Option<(Tensor, usize)> {
        let (&rows, inner) = self.dims[..self.rank].split_first()?;
        let fits = self.datatype == datatype(input.dtype).as_bytes()
            && inner.len() == input.inner.len()
            && inner.iter().zip(&input.inner).all(|(got, want)| want.is_none_or(|want| want == *got));
        let size = self.dims[..self.rank].iter().try_fold(input.dtype.size(), |size, dim| size.checked_mul(*dim))?;
        (fits && size > 0).then_some(())?;
        let bytes: Bytes = match self.values {
            Values::Read(dtype, bytes) => (dtype == input.dtype).then_some(bytes)?.into(),
            Values::Ahead(mut reader) => read_bytes(&mut reader, input.dtype)?.into(),
            Values::Behind(length) => {
                let end = at.checked_add(length).filter(|end| *end <= data.len())?;
                data.slice(std::mem::replace(at, end)..end)
            }
        };
        let is_plain = bytes.len() == size && (input.dtype != Dtype::Bool || bytes.iter().all(|byte| *byte <= 1));
        is_plain.then(|| (Tensor { inner: inner.to_vec(), bytes }, rows))
    }
}

/// Reads the values of an input, which are parsed at once if its type is already known.
fn read_data<'a>(reader: &mut Reader<'a>, name: Option<&[u8]>, declared: &[Input]) -> Option<Values<'a>> {
    if let Some(name) = name {
        let input = declared.iter().find(|input| input.alias == name)?;
        return Some(Values::Read(input.dtype, read_bytes(reader, input.dtype)?));
    }
    let ahead = reader.clone();
    reader.skip()?;
    Some(Values::Ahead(ahead))
}

fn read_bytes(reader: &mut Reader<'_>, dtype: Dtype) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(RESERVED.min(reader.left()));
    read_values(reader, dtype, &mut bytes)?;
    Some(bytes)
}

fn read_shape(reader: &mut Reader<'_>) -> Option<([usize; MAX_RANK], usize)> {
    let (mut dims, mut rank) = ([0; MAX_RANK], 0);
    reader.list(|reader| {
        *dims.get_mut(rank)? = reader.integer()?.unsigned()?.try_into().ok()?;
        rank += 1;
        Some(())
    })?;
    Some((dims, rank))
}

/// Reads the parameters of an input with binary data, which may only state the number of bytes.
fn read_size(reader: &mut Reader<'_>) -> Option<usize> {
    let mut size = None;
    reader.object(|key, reader| match key {
        b"binary_data_size" => once(&mut size, reader.integer()?.unsigned()?.try_into().ok()?),
        _ => None,
    })?;
    size
}

/// Reads the name of an output, and whether it is wanted as binary data.
fn read_output<'a>(reader: &mut Reader<'a>) -> Option<(&'a [u8], bool)> {
    let (mut name, mut binary) = (None, None);
    reader.object(|key, reader| match key {
        b"name" => once(&mut name, reader.string()?),
        b"parameters" => once(&mut binary, read_flag(reader, b"binary_data")?),
        _ => None,
    })?;
    Some((name?, binary.unwrap_or_default()))
}

/// Reads parameters with at most one entry, a flag of this name, which is false if it is missing.
fn read_flag(reader: &mut Reader<'_>, name: &[u8]) -> Option<bool> {
    let mut flag = None;
    reader.object(|key, reader| if key == name { once(&mut flag, reader.boolean()?) } else { None })?;
    Some(flag.unwrap_or_default())
}

/// Reads a list with at least one element, and at most `MAX_TENSORS`.
fn read_some<'a, T>(reader: &mut Reader<'a>, read: impl Fn(&mut Reader<'a>) -> Option<T>) -> Option<Vec<T>> {
    let mut items = Vec::new();
    reader.list(|reader| {
        (items.len() < MAX_TENSORS).then_some(())?;
        items.push(read(reader)?);
        Some(())
    })?;
    Some(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Vec<Input> {
        vec![
            Input { alias: b"x".to_vec(), dtype: Dtype::Float, inner: vec![Some(2)] },
            Input { alias: b"b".to_vec(), dtype: Dtype::Bool, inner: vec![None] },
        ]
    }

    fn outputs() -> Vec<Output> {
        vec![Output { name: b"y".to_vec(), dtype: Dtype::Float }, Output { name: b"h".to_vec(), dtype: Dtype::Half }]
    }

    fn read(json: &str, behind: &[u8]) -> Option<Body> {
        let data = Bytes::from([json.as_bytes(), behind].concat());
        Body::read(&data, json.len(), &inputs(), &outputs(), 4)
    }

    const X: &str = r#"{"name":"x","shape":[2,2],"datatype":"FP32","data":[1,2,3,4]}"#;
    const B: &str = r#"{"data":[[true],[false]],"datatype":"BOOL","shape":[2,1],"name":"b"}"#;
    const BEHIND: &str = r#"{"name":"b","shape":[2,1],"datatype":"BOOL","parameters":{"binary_data_size":2}}"#;
    const BINARY: &str = r#""parameters":{"binary_data_output":true}"#;

    #[test]
    fn values_in_json_and_in_binary_data() {
        let x = [1_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        for (b, behind) in [(B, &[][..]), (BEHIND, &[1, 0][..])] {
            for list in [format!("{X},{b}"), format!("{b},{X}")] {
                let body = read(&format!(r#"{{"id":"7ö",{BINARY},"inputs":[{list}]}}"#), behind).unwrap();
                assert_eq!((body.id.as_str(), body.rows), ("7ö", 2));
                assert_eq!((&*body.tensors[0].bytes, body.tensors[0].inner.as_slice()), (x.as_slice(), &[2][..]));
                assert_eq!((&*body.tensors[1].bytes, body.tensors[1].inner.as_slice()), (&[1, 0][..], &[1][..]));
                assert_eq!(body.binary, [true, true]);
            }
        }
    }

    #[test]
    fn outputs_by_name() {
        let named = |outputs: &str| {
            read(&format!(r#"{{"inputs":[{X},{B}],"outputs":[{outputs}]}}"#), b"").map(|body| body.binary)
        };
        let h = r#"{"name":"h","parameters":{"binary_data":true}}"#;
        assert_eq!(named(&format!(r#"{h},{{"name":"y"}}"#)), Some(vec![false, true]));
        assert_eq!(named(&format!(r#"{{"parameters":{{}},"name":"y"}},{h}"#)), Some(vec![false, true]));
        for outputs in ["", h, r#"{"name":"y"},{"name":"h"}"#, r#"{"name":"y"},{"name":"y"}"#] {
            assert_eq!(named(outputs), None, "{outputs}");
        }
    }

    #[test]
    fn bodies_that_are_not_plain() {
        let whole = format!(r#"{{{BINARY},"inputs":[{X},{B}]}}"#);
        assert!(read(&whole, b"").is_some());
        assert!(read(&whole, b"1").is_none());
        for (from, to) in [
            (BINARY, r#""parameters":{"priority":1}"#),
            (BINARY, r#""parameters":{"binary_data_output":1}"#),
            (BINARY, r#""unknown":1"#),
            (BINARY, r#""inputs":[]"#),
            ("[2,2]", "[2,3]"),
            ("[2,2]", "[4]"),
            ("[2,2]", "[1,4]"),
            ("[2,2]", "[2,-2]"),
            ("[2,2]", "[0,2]"),
            ("[2,2]", "[8,2]"),
            ("[1,2,3,4]", "[1,2,3]"),
            ("[1,2,3,4]", "[1,2,3,4,5]"),
            ("FP32", "FP64"),
            (r#""name":"x""#, r#""name":"z""#),
            (r#""name":"x""#, r#""name":"b""#),
            (r#""name":"x""#, r#""name":"x","name":"x""#),
            (r#""name":"x""#, r#""name":"x","parameters":{"binary_data_size":16}"#),
            (X, B),
            ("]}", "]}}"),
            (r#""inputs""#, r#""input""#),
        ] {
            let changed = whole.replacen(from, to, 1);
            assert_ne!(changed, whole, "{from}");
            assert!(read(&changed, b"").is_none(), "{changed}");
        }
    }

    #[test]
    fn binary_data_that_are_not_plain() {
        let json =
            |size: &str| format!(r#"{{{BINARY},"inputs":[{X},{}]}}"#, BEHIND.replace(":2}", &format!(":{size}}}")));
        assert!(read(&json("2"), &[1, 1]).is_some());
        for (size, behind) in
            [("2", &[1_u8][..]), ("2", &[1, 2]), ("1", &[1]), ("3", &[1, 1, 1]), ("18446744073709551615", &[1, 1])]
        {
            assert!(read(&json(size), behind).is_none(), "{size}");
        }
    }
}

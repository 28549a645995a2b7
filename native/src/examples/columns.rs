//! Decodes the features of tf.Examples into one array for each input of a signature, with a row for each Example.
//!
//! A request with a feature that is missing, or has another kind or length, is not plain:
//! `services/tf_serving/examples/decoding.py` raises the error for it.

use super::request::Input;
use crate::memory;
use crate::predict::{self, Column};
use crate::protobuf::{Cursor, Dtype, texts, wire};

/// The number of bytes that the arrays of a plain request may always have. A shared feature is repeated for every
/// Example, so they may be larger than the request.
const ENOUGH: usize = 1 << 20;

/// How many times as large as the request the arrays of a plain request may be, if they are larger than `ENOUGH`.
const TIMES: usize = 8;

const STRINGS: u32 = 1;
const FLOATS: u32 = 2;
const INTEGERS: u32 = 3;

/// The features that a signature declares as its inputs, in order. None if an Example, together with the context, does
/// not have each of them exactly once and as declared, or if the columns would be many times larger than the request.
/// The first `skipped` dimensions of a declaration do not belong to a single Example.
pub fn columns(input: &Input<'_>, declared: &[predict::Input], skipped: usize) -> Option<Vec<Column>> {
    let most = ENOUGH.max(TIMES * input.len());
    let filling = |input| Filling::new(input, skipped);
    let mut shared: Vec<_> = declared.iter().map(filling).collect();
    if let Some(context) = &input.context {
        add_features(context.clone(), &mut shared)?;
    }
    let mut columns: Vec<_> = declared.iter().map(filling).collect();
    for (row, example) in input.examples().enumerate() {
        add_features(example, &mut columns)?;
        let mut bytes = 0;
        for (column, shared) in columns.iter_mut().zip(&shared) {
            if column.rows == row {
                column.repeat(shared)?;
            }
            // More than one row means that the Example names a feature twice.
            (column.rows == row + 1).then_some(())?;
            bytes += column.bytes.len() + column.text.len();
        }
        (bytes <= most).then_some(())?;
    }
    Some(columns.into_iter().map(Filling::filled).collect())
}

/// The serialized Examples, for a graph that parses them. As in TF Serving, each is the context's bytes followed
/// by the Example's.
pub fn serialized(input: &Input<'_>) -> Option<Column> {
    let shared = match &input.context {
        Some(context) => checked_example(context)?,
        None => &[],
    };
    let most = ENOUGH.max(TIMES * input.len());
    let mut column = Column { inner: Vec::new(), bytes: Vec::new(), text: Vec::new() };
    for example in input.examples() {
        let (own, start) = (checked_example(&example)?, column.text.len());
        memory::put(&mut column.text, shared)?;
        memory::put(&mut column.text, own)?;
        texts::put_span(start, shared.len() + own.len(), &mut column.bytes)?;
        (column.held() <= most).then_some(())?;
    }
    Some(column)
}

/// The bytes of a valid Example.
fn checked_example<'a>(example: &Cursor<'a>) -> Option<&'a [u8]> {
    add_features(example.clone(), &mut [])?;
    example.contiguous()
}

/// A column that is being read.
struct Filling<'a> {
    input: &'a predict::Input,
    /// The column's dimensions beyond axis 0.
    inner: &'a [Option<usize>],
    /// The product of the known dimensions.
    known: usize,
    /// Whether all dimensions are known.
    all_known: bool,
    /// The number of elements of the first row.
    size: Option<usize>,
    rows: usize,
    bytes: Vec<u8>,
    text: Vec<u8>,
}

impl<'a> Filling<'a> {
    fn new(input: &'a predict::Input, skipped: usize) -> Self {
        let inner = input.inner.get(skipped..).unwrap_or_default();
        let known = inner.iter().flatten().fold(1, |product: usize, size| product.saturating_mul(*size));
        let all_known = inner.iter().all(Option::is_some);
        Self { input, inner, known, all_known, size: None, rows: 0, bytes: Vec::new(), text: Vec::new() }
    }

    /// Adds the next row, from a feature.
    fn add(&mut self, feature: Cursor<'_>) -> Option<()> {
        let size = match self.input.dtype {
            Dtype::String => read_strings(feature, &mut self.bytes, &mut self.text)?,
            dtype => read_feature(feature, dtype, &mut self.bytes)?,
        };
        self.count(size)
    }

    /// Adds a copy of the shared feature's row as the next row.
    fn repeat(&mut self, shared: &Self) -> Option<()> {
        (shared.rows == 1).then_some(())?;
        if self.input.dtype == Dtype::String {
            for string in texts::strings(&shared.bytes, &shared.text) {
                texts::put_text(string, &mut self.bytes, &mut self.text)?;
            }
        } else {
            memory::put(&mut self.bytes, &shared.bytes)?;
        }
        self.count(shared.size?)
    }

    fn count(&mut self, size: usize) -> Option<()> {
        self.rows += 1;
        if let Some(first) = self.size {
            return (size == first).then_some(());
        }
        self.size = Some(size);
        // If several dimensions vary, the number of elements does not determine their sizes.
        let varying = self.inner.iter().filter(|inner| inner.is_none()).count();
        let fits = if self.all_known { size == self.known } else { self.known > 0 && size.is_multiple_of(self.known) };
        (fits && size > 0 && varying <= 1).then_some(())
    }

    fn filled(self) -> Column {
        let varying = self.size.unwrap_or_default() / self.known.max(1);
        let inner = self.inner.iter().map(|size| size.unwrap_or(varying)).collect();
        Column { inner, bytes: self.bytes, text: self.text }
    }
}

/// Adds an Example's row to every column for which it has a feature.
fn add_features(mut example: Cursor<'_>, columns: &mut [Filling<'_>]) -> Option<()> {
    if example.left() == 0 {
        return Some(());
    }
    let (1, wire::LENGTH) = wire::tag(&mut example)? else { return None };
    let mut features = wire::delimited(&mut example)?;
    if example.left() > 0 {
        return None;
    }
    let mut next = 0; // most Examples have their features in the same order
    while features.left() > 0 {
        let (1, wire::LENGTH) = wire::tag(&mut features)? else { return None };
        let (name, feature) = entry(wire::delimited(&mut features)?)?;
        let count = columns.len();
        let is_named = |column: &usize| columns[*column].input.alias == name;
        match (next..count).chain(0..next).find(is_named) {
            Some(column) => {
                columns[column].add(feature)?;
                next = (column + 1) % count;
            }
            None => {
                std::str::from_utf8(name).ok()?;
                check_feature(feature)?;
            }
        }
    }
    Some(())
}

/// Parses an entry of the map of features: a name and a feature.
fn entry(mut at: Cursor<'_>) -> Option<(&[u8], Cursor<'_>)> {
    let (mut name, mut feature) = (None, None);
    while at.left() > 0 {
        match wire::tag(&mut at)? {
            (1, wire::LENGTH) if name.is_none() => name = Some(wire::delimited(&mut at)?.contiguous()?),
            (2, wire::LENGTH) if feature.is_none() => feature = Some(wire::delimited(&mut at)?),
            _ => return None,
        }
    }
    Some((name?, feature?))
}

/// Parses a feature: the kind of its list, and the content of the list.
fn list(mut feature: Cursor<'_>) -> Option<(u32, Cursor<'_>)> {
    let (kind @ 1..=3, wire::LENGTH) = wire::tag(&mut feature)? else { return None };
    let list = wire::delimited(&mut feature)?;
    (feature.left() == 0).then_some((kind, list))
}

/// Checks an unused feature; None if it is not valid.
fn check_feature(feature: Cursor<'_>) -> Option<()> {
    if feature.left() == 0 {
        return Some(());
    }
    let (kind, mut at) = list(feature)?;
    while at.left() > 0 {
        let (1, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let mut values = wire::delimited(&mut at)?;
        match kind {
            FLOATS => values.left().is_multiple_of(4).then_some(())?,
            INTEGERS => {
                while values.left() > 0 {
                    wire::varint(&mut values)?;
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// Writes a feature's values as elements of a dtype; returns their number.
fn read_feature(feature: Cursor<'_>, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<usize> {
    let (kind, mut at) = list(feature)?;
    let (1, wire::LENGTH) = wire::tag(&mut at)? else { return None };
    let values = wire::delimited(&mut at)?;
    if at.left() > 0 {
        return None; // a packed field in several parts
    }
    match (kind, dtype) {
        (FLOATS, Dtype::Float | Dtype::Double) => read_floats(values, dtype, bytes),
        (INTEGERS, _) => read_integers(values, dtype, bytes),
        _ => None,
    }
}

/// Adds a feature's strings; returns their number.
fn read_strings(feature: Cursor<'_>, places: &mut Vec<u8>, text: &mut Vec<u8>) -> Option<usize> {
    let (STRINGS, mut at) = list(feature)? else { return None };
    let mut count = 0;
    while at.left() > 0 {
        let (1, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        texts::put_text(wire::delimited(&mut at)?.contiguous()?, places, text)?;
        count += 1;
    }
    Some(count)
}

fn read_floats(values: Cursor<'_>, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<usize> {
    let (values, rest) = values.contiguous()?.as_chunks::<4>();
    if !rest.is_empty() {
        return None;
    }
    bytes.try_reserve(values.len() * dtype.size()).ok()?;
    match dtype {
        Dtype::Float => bytes.extend_from_slice(values.as_flattened()),
        _ => bytes.extend(values.iter().flat_map(|value| f64::from(f32::from_le_bytes(*value)).to_le_bytes())),
    }
    Some(values.len())
}

fn read_integers(mut values: Cursor<'_>, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<usize> {
    let mut count = 0;
    while values.left() > 0 {
        put_integer(wire::varint(&mut values)? as i64, dtype, bytes)?;
        count += 1;
    }
    Some(count)
}

/// Writes an integer that fits the dtype.
fn put_integer(value: i64, dtype: Dtype, bytes: &mut Vec<u8>) -> Option<()> {
    match dtype {
        Dtype::Int64 => memory::put(bytes, &value.to_le_bytes()),
        Dtype::Int32 => memory::put(bytes, &i32::try_from(value).ok()?.to_le_bytes()),
        Dtype::Int16 => memory::put(bytes, &i16::try_from(value).ok()?.to_le_bytes()),
        Dtype::Int8 => memory::put(bytes, &i8::try_from(value).ok()?.to_le_bytes()),
        Dtype::Uint64 => memory::put(bytes, &u64::try_from(value).ok()?.to_le_bytes()),
        Dtype::Uint32 => memory::put(bytes, &u32::try_from(value).ok()?.to_le_bytes()),
        Dtype::Uint16 => memory::put(bytes, &u16::try_from(value).ok()?.to_le_bytes()),
        Dtype::Uint8 => memory::put(bytes, &u8::try_from(value).ok()?.to_le_bytes()),
        Dtype::Bool => memory::put(bytes, &[u8::from(value != 0)]),
        Dtype::Float | Dtype::Double | Dtype::Half | Dtype::String => None,
    }
}

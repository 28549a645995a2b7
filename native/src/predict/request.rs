//! Parses a plain request: fields that appear at most once.

use crate::protobuf::{Cursor, wire};

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
    /// The alias and the TensorProto of each input.
    pub(super) inputs: Vec<(Text<'a>, Cursor<'a>)>,
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

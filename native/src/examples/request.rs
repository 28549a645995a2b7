//! A plain request with tf.Examples: the models and signatures that it names, and the positions of its Examples.

use crate::predict::{Spec, Text};
use crate::protobuf::{Cursor, wire};

/// If a MultiInferenceRequest has more inferences than this, it is not plain: Python handles it.
const MAX_INFERENCES: usize = 16;

/// A plain ClassificationRequest or RegressionRequest, which have the same fields.
pub struct Request<'a> {
    pub spec: Spec<'a>,
    pub input: Input<'a>,
}

impl<'a> Request<'a> {
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (mut spec, mut input) = (None, None);
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) if spec.is_none() => spec = Some(Spec::read(wire::delimited(&mut at)?)?),
                (2, wire::LENGTH) if input.is_none() => input = Some(Input::read(wire::delimited(&mut at)?)?),
                _ => return None,
            }
        }
        Some(Self { spec: spec?, input: input? })
    }
}

/// One of the inferences of a MultiInferenceRequest.
pub struct Inference<'a> {
    pub spec: Spec<'a>,
    pub method: Text<'a>,
}

impl<'a> Inference<'a> {
    fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (mut spec, mut method) = (None, Text::default());
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) if spec.is_none() => spec = Some(Spec::read(wire::delimited(&mut at)?)?),
                (2, wire::LENGTH) => method.fill(&mut at)?,
                _ => return None,
            }
        }
        Some(Self { spec: spec?, method })
    }
}

/// A plain MultiInferenceRequest.
pub struct MultiRequest<'a> {
    /// At least one inference.
    pub inferences: Vec<Inference<'a>>,
    pub input: Input<'a>,
}

impl<'a> MultiRequest<'a> {
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (mut inferences, mut input) = (Vec::new(), None);
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) if inferences.len() < MAX_INFERENCES => {
                    inferences.push(Inference::read(wire::delimited(&mut at)?)?);
                }
                (2, wire::LENGTH) if input.is_none() => input = Some(Input::read(wire::delimited(&mut at)?)?),
                _ => return None,
            }
        }
        (!inferences.is_empty()).then_some(Self { inferences, input: input? })
    }
}

/// The positions of a request's Examples, and of the one whose features they share.
pub struct Input<'a> {
    list: Cursor<'a>,
    pub rows: usize,
    pub context: Option<Cursor<'a>>,
}

impl<'a> Input<'a> {
    /// Parses an Input.
    pub fn read(mut at: Cursor<'a>) -> Option<Self> {
        let (field, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let list = wire::delimited(&mut at)?;
        if at.left() > 0 || !matches!(field, 1 | 2) {
            return None;
        }
        let mut input = Self { list: list.clone(), rows: 0, context: None };
        let mut at = list;
        while at.left() > 0 {
            match wire::tag(&mut at)? {
                (1, wire::LENGTH) => input.rows += 1,
                (2, wire::LENGTH) if field == 2 && input.context.is_none() => {
                    input.context = Some(at.clone()).map(|mut at| wire::delimited(&mut at))?;
                }
                _ => return None,
            }
            wire::delimited(&mut at)?;
        }
        (input.rows > 0).then_some(input)
    }

    /// The Examples, in order.
    pub fn examples(&self) -> impl Iterator<Item = Cursor<'a>> {
        let mut at = self.list.clone();
        // `read` has validated the whole list, so `?` never ends the iteration early.
        std::iter::from_fn(move || {
            while at.left() > 0 {
                let (field, _) = wire::tag(&mut at)?;
                let value = wire::delimited(&mut at)?;
                if field == 1 {
                    return Some(value);
                }
            }
            None
        })
    }

    /// The number of bytes from the first Example to the last, including the bytes between Examples.
    pub fn len(&self) -> usize {
        self.list.left()
    }
}

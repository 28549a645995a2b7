//! Inputs: what a signature declares, and the values that a request has, which stay in its message.

use smallvec::SmallVec;

use crate::protobuf::{Dtype, Rope, Values, texts};

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

//! Bytes cut into pieces, as by a network.

use bytes::Bytes;
use headrace_native::fuzzing::Rope;

/// Decisions taken from the first bytes of an input; a missing byte counts as zero.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// The first `count` bytes are decisions; the rest is data.
    pub fn of(data: &'a [u8], count: usize) -> (Self, &'a [u8]) {
        let (choices, rest) = data.split_at(count.min(data.len()));
        (Self(choices), rest)
    }

    pub fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    pub fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.byte() % all.len()]
    }
}

/// Cuts bytes at places that depend on a seed: nowhere for seed 0, after every byte for seed 1.
pub fn cut(data: &[u8], seed: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut rest = Bytes::copy_from_slice(data);
    let mut state = seed as u64;
    while !rest.is_empty() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let size = match seed {
            0 => rest.len(),
            1 => 1,
            _ => 1 + (state >> 33) as usize % rest.len().min(64),
        };
        pieces.push(rest.split_to(size));
    }
    pieces
}

pub fn rope(pieces: &[Bytes]) -> Rope {
    let mut rope = Rope::default();
    pieces.iter().for_each(|piece| rope.push(piece.clone()));
    rope
}

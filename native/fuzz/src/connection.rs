//! HTTP/2 frames of a connection: the observed frames are those that the simplest parser finds, however the bytes are
//! cut. Rewriting an authority only replaces bytes with dashes. A lone call is two whole frames.

use headrace_native::fuzzing::{Authority, Frames, LoneFrames};

use crate::allocation::at_most;
use crate::pieces::{Choices, cut};

const PREFACE: usize = 24;

/// A frame's kind, flags and stream.
type Seen = (u8, u8, u32);

pub fn check(data: &[u8]) {
    let (mut choices, frames) = Choices::of(data, 1);
    let whole = [&[0; PREFACE][..], frames].concat();
    let expected = plainest(frames);
    let mended = mend(&whole, 0);
    for seed in [0, 1, choices.byte()] {
        assert_eq!(seen(&whole, seed), expected, "cut by {seed}");
        assert_eq!(mend(&whole, seed), mended, "cut by {seed}");
    }
    assert_eq!(mended.len(), whole.len());
    assert!(mended.iter().zip(&whole).all(|(now, then)| now == then || *now == b'-'));
    assert_eq!(seen(&mended, 0), expected);
    lone(frames);
}

/// A lone call is exactly the two frames that the simplest parser finds, and has their payloads.
fn lone(frames: &[u8]) {
    let Some(call) = LoneFrames::read(frames) else { return };
    let found = plainest(frames);
    assert!(matches!(found[..], [(1, 4 | 36, head), (0, 1, data)] if head == call.stream && data == head));
    let (head, data) = (call.head(), call.data());
    assert_eq!(call.bytes(), frames);
    assert_eq!(head.len() + 9 + data.len(), frames.len());
    assert!(frames.starts_with(head) && frames.ends_with(&data));
}

fn seen(bytes: &[u8], seed: usize) -> Vec<Seen> {
    let mut frames = Frames::after(PREFACE);
    let mut seen = Vec::new();
    for piece in cut(bytes, seed) {
        frames.pass(&piece, |own| seen.push((own.kind, own.flags, own.stream)));
    }
    seen
}

fn plainest(mut frames: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some((head, rest)) = frames.split_first_chunk::<9>() {
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        seen.push((head[3], head[4], stream));
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        frames = &rest[length.min(rest.len())..];
    }
    seen
}

/// Rewrites the authorities. The memory is limited, since only the head of a frame has to be remembered.
fn mend(bytes: &[u8], seed: usize) -> Vec<u8> {
    let mut pieces: Vec<_> = cut(bytes, seed).iter().map(|piece| piece.to_vec()).collect();
    at_most(64, || {
        let mut authority = Authority::default();
        pieces.iter_mut().for_each(|piece| authority.rewrite(piece));
    });
    pieces.concat()
}

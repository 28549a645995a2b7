//! Runs every target on the stored seeds and on a few thousand mutations of them, which are the same in every run.

use std::fs;
use std::path::Path;

use headrace_native_fuzz::{TARGETS, answers, examples, infer, infer_body, predict, rest, rest_examples};

const MUTATIONS: usize = 2_000;

/// A small random number generator, with the same numbers for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// A seed with one to four small changes: to a byte, to a length, or to a part, which is removed, doubled, or replaced
/// by a part of another seed.
fn mutated(seeds: &[Vec<u8>], numbers: &mut Numbers) -> Vec<u8> {
    let mut data = seeds[numbers.below(seeds.len())].clone();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(data.len() + 1);
        let end = (at + 1 + numbers.below(16)).min(data.len());
        match numbers.below(6) {
            0 => data.insert(at, numbers.below(256) as u8),
            1 => drop(data.drain(at..end.max(at))),
            2 if at < data.len() => data[at] ^= 1 << numbers.below(8),
            3 if at < data.len() => data[at] = [0, 1, 0x7f, 0x80, 0xff][numbers.below(5)],
            4 if at < data.len() => {
                let again = data[at..end].to_vec();
                data.splice(at..at, again);
            }
            _ => {
                let other = &seeds[numbers.below(seeds.len())];
                let from = numbers.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
        }
    }
    data
}

#[test]
fn seeds_and_mutations() {
    for (name, check) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        seeds.iter().for_each(|seed| check(seed));
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        (0..MUTATIONS).for_each(|_| check(&mutated(&seeds, &mut numbers)));
    }
}

#[test]
fn real_requests_are_plain() {
    let plain = seeds("predict").iter().filter(|seed| predict::understood(seed)).count();
    // Two seeds for each signature; the others are not plain.
    assert_eq!(plain, 13);
    // Every answer to a Predict that the client does not leave to Python.
    assert_eq!(seeds("answers").iter().filter(|seed| answers::understood(seed)).count(), 4);
    // A minimal one, and one with everything: outputs, an id, a version.
    assert_eq!(seeds("infer").iter().filter(|seed| infer::understood(seed)).count(), 8);
    // Each with its data in JSON, and as binary data after the JSON.
    assert_eq!(seeds("infer_body").iter().filter(|seed| infer_body::understood(seed)).count(), 8);
    // For each signature as a list, with a context, and for a MultiInference.
    assert_eq!(seeds("tf_examples").iter().filter(|seed| examples::understood(seed)).count(), 12);
    // Four for each model.
    assert_eq!(seeds("rest").iter().filter(|seed| rest::understood(seed)).count(), 20);
    // For each signature: with numbers, with lists of numbers, and with a context. The last seed repeats a name.
    assert_eq!(seeds("rest_examples").iter().filter(|seed| rest_examples::understood(seed)).count(), 12);
}

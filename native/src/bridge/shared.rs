//! Numbers and texts that Python and Rust must agree on; they are defined in `headrace_batching.bridge`.

use pyo3::prelude::*;

use crate::queue::{Bounds, Full};

/// `headrace_batching.bridge.SHARED`.
#[derive(FromPyObject)]
pub struct Shared {
    pub max_batch_bytes: usize,
    pub too_many_batches: String,
    pub too_many_rows: String,
    pub too_late: String,
    pub pace: Pace,
}

/// When a single task may be run by the thread that received it: see `headrace_batching.bridge.Pace`.
#[derive(Clone, Copy, FromPyObject)]
pub struct Pace {
    quick: f64,
    slow: f64,
    most: usize,
    enough: usize,
    lost: usize,
}

impl Pace {
    pub fn bounds(self) -> Bounds {
        let Self { quick, slow, most, enough, lost } = self;
        Bounds { quick, slow, most, enough, lost }
    }
}

impl Shared {
    /// The reason why a queue is full, or a task would miss its objective, in the text that Python uses.
    pub fn reason(&self, full: &Full, objective: &str) -> String {
        match *full {
            Full::Objective => self.too_late.replace("{objective}", objective),
            Full::Batches { waiting, most } => fill(&self.too_many_batches, &[("waiting", waiting), ("most", most)]),
            Full::Rows { rows, capacity, waiting, most, open, size } => {
                let numbers = [
                    ("rows", rows),
                    ("capacity", capacity),
                    ("waiting", waiting),
                    ("most", most),
                    ("open", open),
                    ("size", size),
                ];
                fill(&self.too_many_rows, &numbers)
            }
        }
    }
}

/// Replaces names in braces with their numbers.
fn fill(text: &str, numbers: &[(&str, usize)]) -> String {
    let put = |text: String, (name, number): &(&str, usize)| text.replace(&format!("{{{name}}}"), &number.to_string());
    numbers.iter().fold(text.to_owned(), put)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_take_the_place_of_their_names() {
        assert_eq!(fill("{a} of {b}, {a}", &[("a", 1), ("b", 22)]), "1 of 22, 1");
    }
}

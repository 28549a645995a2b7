//! JSON bodies that are read outside the interpreter.

mod numbers;

pub use numbers::read_numbers;

//! JSON bodies that are read outside the interpreter.

pub mod numbers;

//! Calls between a connection and Python: every call that is not decided outside the interpreter.

pub mod exchange;

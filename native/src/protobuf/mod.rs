//! Protobuf's wire format, and the tensors in it: as much as the plain Predict needs.

pub mod rope;
pub mod tensor;
pub mod wire;

//! What must hold of the decoders whatever bytes come: each target is one function that panics where it does not.

pub mod allocation;
pub mod answers;
pub mod connection;
pub mod examples;
pub mod frames;
pub mod headers;
pub mod infer;
pub mod infer_body;
pub mod messages;
pub mod pieces;
pub mod predict;
pub mod rest;
pub mod tensor;

/// One target: its name, and what it checks of any bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 10] = [
    ("answers", answers::check),
    ("connection", connection::check),
    ("frames", frames::check),
    ("headers", headers::check),
    ("infer", infer::check),
    ("infer_body", infer_body::check),
    ("predict", predict::check),
    ("rest", rest::check),
    ("tensor", tensor::check),
    ("tf_examples", examples::check),
];

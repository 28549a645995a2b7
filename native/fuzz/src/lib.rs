//! Properties of the decoders that must hold for any input: each target is one function that panics if they do not.

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
pub mod requests;
pub mod rest;
pub mod rest_examples;
pub mod tensor;

/// A target: its name, and a check for arbitrary bytes.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 12] = [
    ("answers", answers::check),
    ("connection", connection::check),
    ("frames", frames::check),
    ("headers", headers::check),
    ("infer", infer::check),
    ("infer_body", infer_body::check),
    ("predict", predict::check),
    ("requests", requests::check),
    ("rest", rest::check),
    ("rest_examples", rest_examples::check),
    ("tensor", tensor::check),
    ("tf_examples", examples::check),
];

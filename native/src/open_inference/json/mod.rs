//! The JSON of a plain infer, with bytes behind it: from a body to arrays, and from rows of outputs to a body.
//!
//! What is not plain is None, good or bad: `services/open_inference/rest/` judges it, in Triton's words.

mod answer;
mod body;
mod values;

pub use answer::{Format, write_error};
pub use body::{Body, Output};

/// What the calls of one version have in common.
pub struct Common {
    pub format: Format,
    /// Of its default signature.
    pub outputs: Vec<Output>,
}

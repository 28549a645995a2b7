//! The JSON of a plain infer, with binary data after it: from a body to arrays, and from rows of outputs to a body.
//!
//! A body that is not plain, valid or not, is None: `services/open_inference/rest/` answers it, with Triton's texts.

mod answer;
mod body;
mod values;

pub use answer::{Format, write_error};
pub use body::{Body, Output};

/// The common part of the calls of one version.
pub struct Common {
    pub format: Format,
    /// Of its default signature.
    pub outputs: Vec<Output>,
}

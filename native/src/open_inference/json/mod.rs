//! The JSON of a plain infer, with binary data after it: from a body to arrays, and from rows of outputs to a body.
//!
//! A body that is not plain gives None, whether it is valid or not. `services/open_inference/rest/` then answers it,
//! with Triton's error texts.

mod answer;
mod body;
mod values;

pub use answer::{Format, write_error};
pub use body::{Body, Output};

/// The data that all calls of one version share.
pub struct Common {
    pub format: Format,
    /// The outputs of the version's default signature.
    pub outputs: Vec<Output>,
}

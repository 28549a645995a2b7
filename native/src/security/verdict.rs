//! Python's decision about one client and one model.

use std::time::Instant;

use pyo3::prelude::*;

use super::account::Account;
use super::audit::Names;

/// Python's verdict about a client and a model.
pub struct Verdict {
    pub model: String,
    /// When the credentials expire; None means never.
    pub expires: Option<Instant>,
    pub account: Option<Py<Account>>,
    /// Whether the caller's calls of this model have low priority.
    pub low: bool,
    /// The text of the refusal if the account admits no call.
    pub exhausted: String,
    pub names: Names,
}

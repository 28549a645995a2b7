//! Python's decisions about callers: verdicts by credentials and model, and the remainder of each caller's limits.
//!
//! No decision is made here. A plain call is answered without Python only if Python has stored a verdict that allows
//! it. Over gRPC, the call is also refused here if it reaches a limit that the verdict names. Every other call goes to
//! Python, which decides, refuses, and stores the verdict for the next call.

mod account;
mod admitted;
mod audit;
mod identity;
mod verdict;
mod verdicts;

pub use account::Account;
pub use admitted::Admitted;
pub use audit::AuditLines;
pub use identity::Identity;
pub use verdicts::{Admission, Asked, LARGE, Verdicts};

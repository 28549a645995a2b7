//! Who may call what, as Python has decided: verdicts by credentials and model, and what each caller may still use.
//!
//! Nothing is decided here. A plain call is answered without Python only where Python has put a verdict that allows it;
//! every other call goes to Python, which decides, refuses, and puts the verdict that the next call finds.

mod account;
mod identity;
mod verdicts;

pub use account::{Account, Admitted};
pub use identity::Identity;
pub use verdicts::Verdicts;

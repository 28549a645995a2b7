//! The calls of a connection: plain ones, which are decoded and answered here, and exchanges with Python's handlers.

mod call;
mod exchange;
mod inbox;
mod metadata;
mod opening;
mod outbox;
mod plain;
mod protocol;
mod questions;
mod reply;
mod respond;
mod understood;
mod waiting;

pub use call::Call;
pub use exchange::{Handlers, run};
pub use inbox::{Event, Inbox, Kind};
pub use metadata::{from_python as metadata_from_python, to_python as metadata_to_python};
pub use opening::{Arrived, Opening, deadline_after, until};
pub use plain::{Outcome, PlainCalls, PlainFields};
pub use protocol::{Answer as InferenceAnswer, Protocol};
pub use respond::Respond;
pub use understood::{Arrays, Understood};
pub use waiting::CallOutbox;

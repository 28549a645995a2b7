//! The boundary with `headrace_batching`: its queue, lanes and batches as Python sees them, and the routes of plain
//! requests. It accesses requests that were decoded in Rust through `PendingCall`, and depends on no protocol and no
//! transport.

mod activity;
mod answers;
mod batch;
mod clock;
mod due_counts;
mod ended;
mod examples;
mod form;
mod keys;
mod lane;
mod magnitude;
mod native_counts;
mod native_inputs;
mod native_run;
mod padding;
mod python;
mod queue;
mod ready;
mod routes;
mod runner;
mod series;
mod session_run;
mod shared;
mod signature;
mod task;
mod tasks;
mod worker_run;

pub use answers::Answers;
pub use batch::Batch;
pub use ended::{Count, EndedCalls, Why};
pub use examples::{Examples, Inference, Kind as InferenceKind};
pub use lane::Lane;
pub use python::catch_panic;
pub use queue::Queue;
pub use routes::{Infer, OverRest, Route, Routes};
pub use series::Series;
pub use signature::{Choice, Signature};
pub use task::{NativeTask, PendingCall, Task};

//! Lone calls: a connection with one call at a time needs no store of streams.
//!
//! # The problem
//!
//! With one call at a time on each of 1,000 connections, the state that h2 keeps for a connection and for a stream has
//! left the cache whenever a call comes. h2 then touches much of it: to open a stream, to store its data, to wake its
//! task, to schedule three frames, and to close it.
//!
//! # What happens here
//!
//! 1. While a connection is calm (`State::calm`), `Reader` reads from its socket in place of h2. If a read returns
//!    exactly the HEADERS and the DATA of one call, and if this HEADERS block has meant a plain call before, then the
//!    call is *taken*: it enters the queue, and h2 does not know of it (`reader.rs`).
//! 2. If nothing else arrives until the answer is ready, `LoneCall` writes the answer to the socket (`call.rs`).
//! 3. In all other cases, h2 gets the call: it reads the same frames from an inbox, the call continues on the stream
//!    that h2 then opens, and h2 sends the answer. This happens if the client sends anything before the answer (another
//!    call, a cancellation, a ping), or if the answer is an error. It also happens if the answer does not fit the
//!    client's windows, if the socket is full, or if the connection is to drain. So h2 handles every case except the
//!    simplest one.
//!
//! # Why the state of the connection stays right
//!
//! - Streams: before h2 reads anything else, it is told of the last call that it has missed, as a stream that its
//!   client has cancelled. So later frames for such a stream, streams with a lower number, and the number of the last
//!   stream in GOAWAY are handled as if h2 had seen all calls.
//! - HPACK: a HEADERS block is known only as long as no other block could have changed the table (`heads` in `State`),
//!   and only if it does not change the table itself (`hpack.rs`). Answers use no table.
//! - Windows: h2 is told of only a part of the client's window for the connection, and gets the rest before it needs
//!   it. The bytes of requests that h2 has not seen are returned to the client here (`windows.rs`).
//! - Writes: an answer is written only between two frames of h2. If the socket takes only a part of it, the rest is
//!   written before h2's next bytes.
//!
//! Limits, memory, admission, counters and traces are those of every plain call, since a taken call goes through
//! `PlainCalls::put`, too.

mod bypass;
mod call;
mod hpack;
mod reader;
mod state;
mod windows;
mod wire;

pub use bypass::{Bypass, Given};
pub use call::LoneCall;
pub use reader::Reader;
#[cfg(feature = "fuzzing")]
pub use wire::LoneFrames;

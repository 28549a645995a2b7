//! HTTP/2 connections below their calls: sockets, TLS, the observation of frames, the lifetime of a connection, and
//! calls that come one at a time, which are read and answered without h2.

mod authority;
mod frames;
mod lifetime;
mod lone;
mod read_ahead;
mod seldom;
mod socket;
mod stall;
mod stream;
mod tls;
mod turn;
mod watched;

#[cfg(feature = "fuzzing")]
pub use authority::Authority;
pub use frames::FrameStats;
#[cfg(feature = "fuzzing")]
pub use frames::Frames;
pub use lifetime::{Due, Lifetime, LifetimeLimits};
#[cfg(feature = "fuzzing")]
pub use lone::LoneFrames;
pub use lone::{Bypass, LoneCall, Reader};
pub use seldom::Seldom;
pub use socket::{Accepted, Address, SharedTcp, Socket};
pub use stall::{Stall, Timer};
pub use stream::Stream;
pub use tls::{Certificates, Certified, HTTP2, Tls};
pub use turn::{AfterPause, Turn};
pub use watched::Watched;

//! A connection to a server: the socket, and HTTP/2 on it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::gathering::Gathering;
use super::target::Target;
use crate::grpc::{Status, UNAVAILABLE};

const CONNECT_WITHIN: Duration = Duration::from_secs(20);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const MAX_FRAME: u32 = 1 << 20;

/// Connects; a task of the current runtime handles the frames as long as the sender or a call exists.
pub async fn connect(target: &Target) -> Result<SendRequest<Bytes>, Status> {
    let failed = |reason: String| {
        let text = format!("failed to connect to {target}: {reason}");
        Status::new(UNAVAILABLE, text)
    };
    let connecting = async {
        let socket = target.connect().await.map_err(|error| failed(error.to_string()))?;
        let (socket, has_shaken_hands) = Gathering::new(socket);
        let http2 = Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(MAX_FRAME)
            .enable_push(false)
            .handshake::<_, Bytes>(socket);
        let (sender, connection) = http2.await.map_err(|error| failed(error.to_string()))?;
        has_shaken_hands.store(true, Ordering::Relaxed);
        // The calls on the connection notice its end.
        tokio::spawn(connection);
        Ok(sender)
    };
    timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| Err(failed("timed out".into())))
}

/// Lets the tasks of connections run: first the sockets are checked, then the tasks read from them.
pub async fn give_way() {
    yield_now().await;
    yield_now().await;
}

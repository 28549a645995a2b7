//! A connection to a server: the socket, TLS if it is asked for, and HTTP/2 on it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::gathering::{Gathering, Marks};
use super::target::Target;
use super::tls::Secured;
use crate::grpc::{Status, UNAVAILABLE};

const CONNECT_WITHIN: Duration = Duration::from_secs(20);
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
const MAX_FRAME: u32 = 1 << 20;

/// The reason why there is no connection.
pub struct Unconnected {
    pub status: Status,
    /// Whether the server was reached, and the TLS handshake failed: either side refused the other.
    pub tls_failed: bool,
}

/// A connection: sends requests, and knows whether the server has answered in HTTP/2.
pub type Http2 = (SendRequest<Bytes>, Arc<Marks>);

/// Connects; a task of the current runtime handles the frames as long as the sender or a call exists.
pub async fn connect(target: &Target, tls: Option<&Secured>) -> Result<Http2, Unconnected> {
    let failed = |reason: String, tls_failed| {
        let text = format!("failed to connect to {target}: {reason}");
        Unconnected { status: Status::new(UNAVAILABLE, text), tls_failed }
    };
    let connecting = async {
        let socket = target.connect().await.map_err(|error| failed(error.to_string(), false))?;
        let sender = match tls {
            None => begin(socket).await,
            Some(tls) => {
                begin(tls.handshake(socket).await.map_err(|error| {
                    // A connection that is lost meanwhile has another kind of error.
                    failed(format!("TLS handshake: {error}"), error.kind() == ErrorKind::InvalidData)
                })?)
                .await
            }
        };
        sender.map_err(|error| failed(error.to_string(), false))
    };
    timeout(CONNECT_WITHIN, connecting).await.unwrap_or_else(|_| Err(failed("timed out".into(), false)))
}

/// Begins HTTP/2 on a stream.
async fn begin(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Http2, h2::Error> {
    let (stream, marks) = Gathering::new(stream);
    let http2 = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .enable_push(false)
        .handshake::<_, Bytes>(stream);
    let (sender, connection) = http2.await?;
    marks.has_shaken_hands.store(true, Ordering::Relaxed);
    // The calls on the connection notice its end.
    tokio::spawn(connection);
    Ok((sender, marks))
}

/// Lets the tasks of connections run: first the sockets are checked, then the tasks read from them.
pub async fn give_way() {
    yield_now().await;
    yield_now().await;
}

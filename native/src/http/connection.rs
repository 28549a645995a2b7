//! One HTTP connection, from its first byte to its end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::answers::Answers;
use super::plain::Plain;
use super::progress::Progress;
use super::rewound::Rewound;
use super::stalling::Stalling;
use crate::http2::{FrameStats, Stream, Watched};

/// How long a connection may be idle: longer than the connection pools of most clients keep one. Also the time limit
/// for receiving a request's head.
const KEEP_ALIVE: Duration = Duration::from_secs(50);

/// The limit of a request's head in bytes.
const MAX_HEAD: usize = 512 << 10;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Answers the requests of a connection until it ends. Ends the connection if the client is idle for too long. Also
/// ends it if, for the time `stall`, the client does not continue a head that it has begun, or does not read an answer.
/// When the server stops, requests in flight are answered.
pub async fn serve(stream: Stream, stall: Option<Duration>, answers: impl Answers, stopping: impl Future) {
    let (mut stopping, after_pause) = (pin!(stopping), answers.after_pause());
    let first = tokio::select! {
        first = timeout(KEEP_ALIVE, stream.speaks_http2()) => first,
        _ = &mut stopping => return, // there was no request
    };
    let Ok(is_http2) = first else { return };
    // A broken connection concerns only its client, and its requests have ended with it.
    if is_http2 {
        let service = service_fn(move |request| {
            let answer = answers.clone().answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = Watched::new(stream, Arc::new(FrameStats::default()), stall, after_pause.clone());
        let stream = Stalling::new(stream, stall, None, after_pause);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let _ = until_drained(connection, http2::Connection::graceful_shutdown, stopping).await;
    } else {
        let progress = Progress::default();
        let stream = Stalling::new(stream, stall, Some(progress.clone()), after_pause);
        let plain = Plain::new(stream, progress.clone(), KEEP_ALIVE);
        let Some((read, stream)) = plain.serve(&answers, stopping.as_mut()).await else { return };
        let stream = Rewound::new(read, stream);
        let service = service_fn(move |request| {
            progress.is_answered();
            let (answer, progress) = (answers.clone().answer(request), progress.clone());
            async { Ok::<_, Infallible>(answer.await.map(|content| progress.until_gone(content))) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE).max_buf_size(MAX_HEAD);
        builder.title_case_headers(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let _ = until_drained(connection, http1::Connection::graceful_shutdown, stopping).await;
    }
}

/// Drives a connection to its end. When the server stops, tells hyper to shut it down gracefully.
async fn until_drained<C: Future>(connection: C, shut_down: fn(Pin<&mut C>), stopping: impl Future) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        _ = stopping => shut_down(connection.as_mut()),
    }
    connection.await
}

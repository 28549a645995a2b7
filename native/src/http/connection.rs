//! One HTTP connection, from its first byte to its end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::timeout;

use super::answer::Answer;
use super::progress::Progress;
use super::stalling::Stalling;
use crate::http2::{FrameStats, Stream, Watched};

/// That a connection may be idle: longer than the pools of most clients keep one. Also the most that a request's head may take.
const KEEP_ALIVE: Duration = Duration::from_secs(50);

/// Of a request's head.
const MAX_HEAD: usize = 512 << 10;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Answers the requests of a connection, until it ends, or its client has been idle for too long, or has sent nothing more of a head or read
/// nothing for so long as `stall`. When the server stops, those in flight are answered.
pub async fn serve<F: Future<Output = Answer> + Send + 'static>(
    stream: Stream,
    stall: Option<Duration>,
    answer: impl Fn(Request<Incoming>) -> F,
    stopping: impl Future,
) {
    let mut stopping = pin!(stopping);
    let first = tokio::select! {
        first = timeout(KEEP_ALIVE, stream.speaks_http2()) => first,
        _ = &mut stopping => return, // nothing has been asked for
    };
    let Ok(is_http2) = first else { return };
    // What breaks a connection is the client's affair, and has ended its requests.
    if is_http2 {
        let service = service_fn(move |request| {
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let stream = Watched::new(stream, Arc::new(FrameStats::default()), stall);
        let stream = Stalling::new(stream, stall, None);
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
        builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let _ = until_drained(connection, http2::Connection::graceful_shutdown, stopping).await;
    } else {
        let progress = Progress::default();
        let stream = Stalling::new(stream, stall, Some(progress.clone()));
        let service = service_fn(move |request| {
            progress.is_answered();
            let (answer, progress) = (answer(request), progress.clone());
            async { Ok::<_, Infallible>(answer.await.map(|content| progress.until_gone(content))) }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE).max_buf_size(MAX_HEAD);
        builder.title_case_headers(true);
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let _ = until_drained(connection, http1::Connection::graceful_shutdown, stopping).await;
    }
}

/// Drives a connection to its end, which it is told to come to when the server stops.
async fn until_drained<C: Future>(connection: C, shut_down: fn(Pin<&mut C>), stopping: impl Future) -> C::Output {
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        ended = connection.as_mut() => return ended,
        _ = stopping => shut_down(connection.as_mut()),
    }
    connection.await
}

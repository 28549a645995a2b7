//! One connection, from its handshake to its end.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::Connection;
use tokio::time::{Interval, Sleep, interval, sleep};

use super::client::Client;
use super::limits::Limits;
use super::rest::Rest;
use super::service::{Protocol, Service};
use super::shared::{Stop, stopped};
use super::streams::Streams;
use super::thread::ConnectionThread;
use crate::http::{self, Endpoint};
use crate::http2::{Accepted, Bypass, Certified, Due, FrameStats, Lifetime, Reader, Seldom, Stream, Watched};
use crate::security::Identity;

const HANDSHAKE_WITHIN: Duration = Duration::from_secs(20);
/// While a server stops, a connection without a call ends after twice this time; by then, all answers have been sent.
const LET_GO: Duration = Duration::from_millis(500);
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const MAX_FRAME: u32 = 256 << 10;
/// The number of calls that a client may have cancelled before the server takes them from h2. With more, h2 ends the
/// connection as that of an attacker; this is enough for a client that abandons many calls at the same time.
const CANCELLED_AT_ONCE: usize = 200;
/// The factor by which metadata may exceed a call's limit and still be read, so that the call is refused with gRPC's
/// error. If there is even more, h2 ends the connection.
const METADATA_HEARD: u32 = 16;

/// Serves a connection until its client closes it, it breaks, or it has lived long enough.
pub async fn serve_connection(accepted: Accepted, service: Service, thread: Arc<ConnectionThread>, stop: Stop) {
    match service.protocol {
        Protocol::Grpc => serve_grpc(accepted, service.tls, thread, stop).await,
        Protocol::Http(endpoint) => serve_http(accepted, service.tls, thread, endpoint, stop).await,
    }
}

async fn serve_http(
    accepted: Accepted,
    tls: Option<Arc<Certified>>,
    thread: Arc<ConnectionThread>,
    endpoint: Arc<Endpoint>,
    stop: Stop,
) {
    let limits = &thread.shared.limits;
    if let Some(stream) = in_time(secured(accepted, tls, true), limits, &stop).await {
        let stall = limits.stall;
        let rest = Rest::new(thread.clone(), endpoint, Identity::of(&stream));
        http::serve(stream, stall, rest, stopped(stop)).await;
    }
}

async fn serve_grpc(accepted: Accepted, tls: Option<Arc<Certified>>, thread: Arc<ConnectionThread>, stop: Stop) {
    let stats = Arc::new(FrameStats::default());
    let peer = accepted.peer.clone();
    let limits = &thread.shared.limits;
    let handshake = async {
        let stream = secured(accepted, tls, false).await?;
        let client = Client::new(peer, Identity::of(&stream), thread.clone());
        let bypass = stream.plain_tcp().map(|socket| Bypass::new(socket, stats.clone()));
        let stream = Watched::new(stream, stats.clone(), limits.stall, thread.after_pause());
        let http2 = handshake(limits, stream.with_bypass(bypass.clone())).await?;
        Some((client, http2, bypass.map(Reader::new)))
    };
    if let Some((client, http2, reader)) = in_time(handshake, limits, &stop).await {
        // A connection's failure concerns only its client, and its calls have ended with it.
        let _ = serve(&client, Streams::new(&client, http2, reader), stats, stop).await;
    }
}

/// Waits for the result of a handshake; None if it takes too long, or if the server stops: no call has begun by then.
async fn in_time<T>(handshake: impl Future<Output = Option<T>>, limits: &Limits, stop: &Stop) -> Option<T> {
    let within = limits.stall.map_or(HANDSHAKE_WITHIN, |stall| stall.min(HANDSHAKE_WITHIN));
    tokio::select! {
        done = tokio::time::timeout(within, handshake) => done.ok()?,
        _ = stopped(stop.clone()) => None,
    }
}

/// Completes the TLS handshake, if there is one. Returns None if the client must not connect. `http1` says whether the
/// client may speak HTTP/1 instead of HTTP/2.
async fn secured(accepted: Accepted, tls: Option<Arc<Certified>>, http1: bool) -> Option<Stream> {
    let socket = accepted.enter().ok()?;
    Some(match tls {
        Some(tls) => Stream::Secured(Box::new(tls.handshake(socket, http1).await?)),
        None => Stream::Plain(socket),
    })
}

/// Performs the HTTP/2 handshake; None for a client that does not speak HTTP/2.
async fn handshake(limits: &Limits, stream: Watched) -> Option<Connection<Watched, Bytes>> {
    h2::server::Builder::new()
        .max_concurrent_streams(limits.max_concurrent_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_pending_accept_reset_streams(CANCELLED_AT_ONCE)
        .max_header_list_size(limits.max_metadata_size.saturating_mul(METADATA_HEARD))
        .handshake(stream)
        .await
        .ok()
}

/// Monitors whether a client does what it must do: send the rest of a message, or read an answer.
struct Stall<'a> {
    client: &'a Client,
    limit: Duration,
    /// The result of `Client::owes` at the last check.
    seen: (bool, bool, (usize, usize)),
    since: Instant,
}

/// The number of checks within the time for which a client may be inactive.
const LOOKS: u32 = 4;

/// The time limit for a client that may be inactive forever.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

impl<'a> Stall<'a> {
    fn new(client: &'a Client) -> Self {
        let limit = client.thread.shared.limits.stall.unwrap_or(FOR_EVER);
        Self { client, limit, seen: (false, false, (0, 0)), since: Instant::now() }
    }

    /// When to check.
    fn looks(&self) -> Interval {
        interval(self.limit / LOOKS)
    }

    /// Whether the client has been inactive for too long.
    fn has_ended(&mut self) -> bool {
        let (sends, takes, (came, left)) = self.client.owes();
        let (sent, took, (came_before, left_before)) = self.seen;
        let stuck = (sends && sent && came == came_before) || (takes && took && left == left_before);
        if !stuck {
            self.since = Instant::now();
        }
        self.seen = (sends, takes, (came, left));
        self.since.elapsed() >= self.limit
    }
}

/// An event of a connection other than a call.
enum Event {
    Due(Due),
    /// It is time to check whether the client is active.
    Look,
    /// The server is stopping.
    Stop,
    /// The server has been stopping for a while.
    LetGo,
}

/// Ends a connection without calls while its server stops. An orderly end would need the client's acknowledgement, but
/// the client may have gone, or may hang.
struct LettingGo {
    timer: Pin<Box<Sleep>>,
    /// Whether there was no call at the last check.
    rested: bool,
}

impl LettingGo {
    fn new() -> Self {
        Self { timer: Box::pin(sleep(LET_GO)), rested: false }
    }

    /// Whether to end the connection. Called each time that the timer fires.
    fn is_due(&mut self, streams: &Streams<'_>) -> bool {
        self.timer.as_mut().reset((Instant::now() + LET_GO).into());
        let rests = !streams.exist();
        std::mem::replace(&mut self.rested, rests) && rests
    }
}

async fn serve(client: &Client, mut streams: Streams<'_>, stats: Arc<FrameStats>, stop: Stop) -> Result<(), h2::Error> {
    let mut lifetime = Lifetime::new(&client.thread.shared.limits.lifetime, stats.clone(), &mut streams.http2);
    let mut stall = Stall::new(client);
    let (mut looks, mut stopping, mut letting_go) = (stall.looks(), pin!(stopped(stop)), None);
    let mut seldom = Seldom::default();
    loop {
        let next = poll_fn(|context| {
            streams.poll(context, |context, http2, is_taken| {
                if let Poll::Ready(call) = http2.poll_accept(context) {
                    return Poll::Ready(Ok(call));
                }
                if let Poll::Ready(due) = lifetime.poll(context, || is_taken || http2.has_streams()) {
                    return Poll::Ready(Err(Event::Due(due)));
                }
                let event =
                    |context: &mut Context<'_>| poll_event(context, &mut looks, stopping.as_mut(), &mut letting_go);
                seldom.poll(context, event).map(Err)
            })
        });
        match next.await {
            Ok(Some(Ok((request, respond)))) => streams.open(request, respond),
            Ok(Some(Err(error))) => return Err(error),
            Ok(None) | Err(Event::Due(Due::Close)) => return Ok(()),
            Err(Event::Due(Due::Drain)) => streams.drain(),
            Err(Event::Due(Due::TooManyPings)) => stats.end_for_pings(),
            Err(Event::Look) if stall.has_ended() => return Ok(()),
            Err(Event::Look) => {}
            Err(Event::Stop) => {
                streams.drain();
                letting_go = Some(LettingGo::new());
            }
            Err(Event::LetGo) if letting_go.as_mut().is_some_and(|own| own.is_due(&streams)) => return Ok(()),
            Err(Event::LetGo) => {}
        }
    }
}

fn poll_event(
    context: &mut Context<'_>,
    looks: &mut Interval,
    stopping: Pin<&mut impl Future>,
    letting_go: &mut Option<LettingGo>,
) -> Poll<Event> {
    if looks.poll_tick(context).is_ready() {
        return Poll::Ready(Event::Look);
    }
    match letting_go {
        Some(own) => own.timer.as_mut().poll(context).map(|()| Event::LetGo),
        None => stopping.poll(context).map(|_| Event::Stop),
    }
}

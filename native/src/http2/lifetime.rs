//! How long a connection lives: keepalive, age, idleness, and too many pings.
//!
//! The benefit: the channel arguments of gRPC's servers (`--grpc_channel_arguments`) mean the same on this transport as
//! on grpcio's. Nothing here runs per request: this code is called whenever everything that has arrived has been read.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::BuildHasher;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use h2::server::Connection;
use h2::{Ping, PingPong};
use tokio::time::Sleep;

use super::frames::FrameStats;
use super::seldom::Seldom;
use super::watched::Watched;

/// The shortest time between two pings of a client without a call in flight, unless `keepalive_without_calls` is set.
const IDLE_PING_INTERVAL: Duration = Duration::from_secs(2 * 3600);

/// The limits that may end a connection before its client does. A time of None means no limit.
#[derive(Clone, Debug)]
pub struct LifetimeLimits {
    pub keepalive_time: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
    pub keepalive_without_calls: bool,
    pub max_ping_strikes: u32,
    pub min_ping_interval: Duration,
    pub max_age: Option<Duration>,
    pub max_age_grace: Option<Duration>,
    pub max_idle: Option<Duration>,
}

/// The action that is due.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Accept no more calls; calls in flight may finish.
    Drain,
    /// Close at once.
    Close,
    /// Close at once, after telling the client that it sends too many pings.
    TooManyPings,
}

type Http2 = Connection<Watched, bytes::Bytes>;

/// Monitors the lifetime of one connection.
pub struct Lifetime {
    limits: LifetimeLimits,
    stats: Arc<FrameStats>,
    pings: Pings,
    keepalive: Option<Keepalive>,
    age: Option<Pin<Box<Sleep>>>,
    idle: Option<Idle>,
    drains: bool,
}

impl Lifetime {
    pub fn new(limits: &LifetimeLimits, stats: Arc<FrameStats>, http2: &mut Http2) -> Self {
        Self {
            stats,
            pings: Pings::default(),
            keepalive: Keepalive::new(limits, http2),
            age: limits.max_age.map(|age| timer(spread(age))),
            idle: limits.max_idle.map(|time| Idle { rests: true, last_stream: 0, timer: timer(time) }),
            drains: false,
            limits: limits.clone(),
        }
    }

    /// Must be called whenever everything that has arrived has been read. `has_calls` says whether there are calls now.
    pub fn poll(&mut self, context: &mut Context<'_>, has_calls: impl Fn() -> bool) -> Poll<Due> {
        let (count, answered) = self.stats.take();
        if answered {
            self.pings.forgive();
        }
        if count > 0 {
            let rests = !self.limits.keepalive_without_calls && !has_calls();
            let now = Instant::now();
            if (0..count).any(|_| self.pings.one_too_many(now, rests, &self.limits)) {
                return Poll::Ready(Due::TooManyPings);
            }
        }
        if self.poll_age(context).is_ready() {
            return Poll::Ready(if std::mem::replace(&mut self.drains, true) { Due::Close } else { Due::Drain });
        }
        if let Some(keepalive) = &mut self.keepalive
            && keepalive.poll(context, &has_calls).is_ready()
        {
            return Poll::Ready(Due::Close);
        }
        match (&mut self.idle, self.limits.max_idle) {
            (Some(idle), Some(time)) => {
                ready!(idle.poll(context, time, has_calls(), self.stats.last_stream()));
                self.idle = None;
                Poll::Ready(Due::Drain)
            }
            _ => Poll::Pending,
        }
    }

    /// Ready when the connection is old enough to be drained, and again when draining has taken too long.
    fn poll_age(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(age) = &mut self.age else { return Poll::Pending };
        ready!(age.as_mut().poll(context));
        self.age = if self.drains { None } else { self.limits.max_age_grace.map(timer) };
        Poll::Ready(())
    }
}

fn timer(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(time))
}

fn again(timer: &mut Pin<Box<Sleep>>, time: Duration) {
    timer.as_mut().reset((Instant::now() + time).into());
}

/// A duration that is randomly up to a tenth longer or shorter, so that connections made at the same time do not end at
/// the same time.
fn spread(time: Duration) -> Duration {
    let chance = (RandomState::new().hash_one(0) % 1024) as u32;
    time * 9 / 10 + time * chance / (5 * 1024)
}

/// Pings a client from time to time to check that it is alive.
struct Keepalive {
    time: Duration,
    timeout: Duration,
    without_calls: bool,
    pings: PingPong,
    waits: bool,
    timer: Pin<Box<Sleep>>,
    fires: Seldom,
}

impl Keepalive {
    fn new(limits: &LifetimeLimits, http2: &mut Http2) -> Option<Self> {
        let (time, timeout) = limits.keepalive_time.zip(limits.keepalive_timeout)?;
        let pings = http2.ping_pong()?;
        let without_calls = limits.keepalive_without_calls;
        Some(Self { time, timeout, without_calls, pings, waits: false, timer: timer(time), fires: Seldom::default() })
    }

    /// Ready when the client has not answered in time.
    fn poll(&mut self, context: &mut Context<'_>, has_calls: impl Fn() -> bool) -> Poll<()> {
        loop {
            // An error ends the connection anyway.
            if self.waits && self.pings.poll_pong(context).is_ready() {
                self.waits = false;
                again(&mut self.timer, self.time);
            }
            ready!(self.fires.poll(context, |context| self.timer.as_mut().poll(context)));
            if self.waits {
                return Poll::Ready(());
            }
            let asks = self.without_calls || has_calls();
            self.waits = asks && self.pings.send_ping(Ping::opaque()).is_ok();
            again(&mut self.timer, if self.waits { self.timeout } else { self.time });
        }
    }
}

/// Measures how long there has been no call.
struct Idle {
    rests: bool,
    /// The number of the newest stream when the connection was last polled.
    last_stream: u32,
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    /// Ready when there has been no call for this time. Between two polls, a call may have come and ended, which is
    /// seen by the newest stream.
    fn poll(&mut self, context: &mut Context<'_>, time: Duration, has_calls: bool, last_stream: u32) -> Poll<()> {
        let rested = std::mem::replace(&mut self.rests, !has_calls);
        let newer = std::mem::replace(&mut self.last_stream, last_stream) != last_stream;
        if !self.rests {
            // The end of a call that bypasses h2 causes no poll, so the timer must stay active.
            if self.timer.as_mut().poll(context).is_ready() {
                again(&mut self.timer, time);
                let _ = self.timer.as_mut().poll(context);
            }
            return Poll::Pending;
        }
        if !rested || newer {
            again(&mut self.timer, time);
        }
        self.timer.as_mut().poll(context)
    }
}

/// Counts the pings of a client that come too soon, as gRPC does. The count restarts whenever headers or data are sent
/// to the client.
#[derive(Default)]
struct Pings {
    last: Option<Instant>,
    strikes: u32,
}

impl Pings {
    fn forgive(&mut self) {
        *self = Self::default();
    }

    fn one_too_many(&mut self, now: Instant, rests: bool, limits: &LifetimeLimits) -> bool {
        let interval = if rests { IDLE_PING_INTERVAL } else { limits.min_ping_interval };
        let soon = self.last.replace(now).is_some_and(|last| now < last + interval);
        self.strikes += u32::from(soon);
        limits.max_ping_strikes > 0 && self.strikes > limits.max_ping_strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: LifetimeLimits = LifetimeLimits {
        keepalive_time: None,
        keepalive_timeout: None,
        keepalive_without_calls: false,
        max_ping_strikes: 0,
        min_ping_interval: Duration::ZERO,
        max_age: None,
        max_age_grace: None,
        max_idle: None,
    };

    #[test]
    fn the_fourth_ping_in_a_row_is_one_too_many() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let limits = LifetimeLimits { max_ping_strikes: 2, min_ping_interval: minutes(5), ..NONE };
        let (mut pings, now) = (Pings::default(), Instant::now());
        let mut verdicts = |count, apart, rests| -> Vec<_> {
            pings.forgive();
            (0..count).map(|i| pings.one_too_many(now + apart * i, rests, &limits)).collect()
        };
        assert_eq!(verdicts(4, minutes(4), false), [false, false, false, true]);
        assert_eq!(verdicts(9, minutes(5), false), [false; 9]);
        assert_eq!(verdicts(4, minutes(119), true), [false, false, false, true]);
        let unlimited = LifetimeLimits { max_ping_strikes: 0, ..limits };
        assert!((0..9).all(|_| !Pings::default().one_too_many(now, false, &unlimited)));
    }

    #[tokio::test]
    async fn a_call_between_two_polls_begins_the_idle_time_anew() {
        let time = Duration::from_millis(20);
        let mut idle = Idle { rests: true, last_stream: 0, timer: timer(time) };
        std::future::poll_fn(|context| idle.timer.as_mut().poll(context)).await;
        let mut polled = |stream| {
            let waker = std::task::Waker::noop();
            idle.poll(&mut Context::from_waker(waker), 100 * time, false, stream).is_ready()
        };
        assert!(!polled(1) && !polled(1));
    }

    #[tokio::test]
    async fn the_timer_stays_active_during_a_call() {
        let time = Duration::from_millis(20);
        let mut idle = Idle { rests: true, last_stream: 0, timer: timer(Duration::ZERO) };
        let mut has_calls = true;
        let ended =
            std::future::poll_fn(|context| idle.poll(context, time, std::mem::replace(&mut has_calls, false), 1));
        tokio::time::timeout(100 * time, ended).await.expect("the timer wakes the task after the call");
    }

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        for _ in 0..100 {
            let age = spread(Duration::from_secs(1000)).as_secs();
            assert!((900..=1100).contains(&age), "{age}");
        }
    }
}

//! Calls to one server, over a connection that is opened when needed and then kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::HeaderMap;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::sleep;

use super::answer::{Answer, status_of_error, was_not_taken};
use super::attempt::{Broken, attempt};
use super::connection::{Unconnected, connect, give_way};
use super::gathering::Marks;
use super::head::{Origin, head};
use super::request::Message;
use super::retry::Retry;
use super::target::Target;
use super::tls::Secured;
use crate::calls::until;
use crate::grpc::{CANCELLED, RESOURCE_EXHAUSTED, Status, UNAVAILABLE};

/// A connection that was idle for this long may have ended unnoticed, since nothing drives it between calls.
const UNSEEN: Duration = Duration::from_millis(1);

/// The settings of a channel.
pub struct Settings {
    pub target: Target,
    pub origin: Origin,
    pub tls: Option<Secured>,
    /// Metadata that is sent with every call.
    pub metadata: HeaderMap,
    pub retry: Retry,
    /// The largest size of a message, sent or received, in bytes.
    pub max_send: usize,
    pub max_receive: usize,
}

/// Calls to one server. May be used on any thread of its runtime.
pub struct Channel {
    settings: Settings,
    kept: Mutex<Kept>,
    connecting: AsyncMutex<()>,
    closed: watch::Sender<bool>,
    under_way: AtomicUsize,
}

#[derive(Default)]
struct Kept {
    sender: Option<SendRequest<Bytes>>,
    marks: Arc<Marks>,
    /// The number of the connection that `sender` belongs to.
    number: u64,
    used: Option<Instant>,
}

/// A call under way, which is counted until this is dropped.
struct UnderWay<'a>(&'a Channel);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.kept.lock().used = Some(Instant::now());
    }
}

impl Channel {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            kept: Mutex::default(),
            connecting: AsyncMutex::default(),
            closed: watch::Sender::new(false),
            under_way: AtomicUsize::new(0),
        }
    }

    /// Connects now, instead of with the first call.
    pub async fn connect(&self) -> Result<(), Status> {
        self.connection().await.map(drop).map_err(|unconnected| unconnected.status)
    }

    /// Cancels the calls in flight, and all later ones.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.kept.lock().sender = None;
    }

    /// Returns when the channel has been closed.
    pub async fn closed(&self) {
        // Cannot fail: the sender is dropped only with the channel.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Makes a call, with retries by the retry policy, until `timeout` has passed.
    pub async fn call(&self, message: &Message, timeout: Option<Duration>) -> Answer {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        tokio::select! {
            biased;
            answer = self.retried(message, deadline) => answer,
            () = until(deadline) => Status::deadline_exceeded().into(),
            () = self.closed() => Status::new(CANCELLED, "Channel closed!").into(),
        }
    }

    async fn retried(&self, message: &Message, deadline: Option<Instant>) -> Answer {
        if message.length > self.settings.max_send {
            let (length, limit) = (message.length, self.settings.max_send);
            let text = format!("CLIENT: Sent message larger than max ({length} vs. {limit})");
            return Status::new(RESOURCE_EXHAUSTED, text).into();
        }
        let mut failures = 0;
        loop {
            let answer = self.once(message, deadline, failures).await;
            if answer.status.code != UNAVAILABLE || answer.begun || answer.tls_failed {
                self.settings.retry.answered();
                return answer;
            }
            failures += 1;
            match self.settings.retry.after(failures, fastrand::f64()) {
                Some(delay) => sleep(delay).await,
                None => return answer,
            }
        }
    }

    /// Makes one attempt, and a second one at once if the server says that it has not processed the first.
    async fn once(&self, message: &Message, deadline: Option<Instant>, failures: u32) -> Answer {
        let mut first = true;
        loop {
            let (sender, number) = match self.connection().await {
                Ok(connection) => connection,
                Err(unconnected) => return unconnected.into(),
            };
            let settings = &self.settings;
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let head = head(&settings.origin, &message.path, &settings.metadata, left, failures);
            self.under_way.fetch_add(1, Ordering::Relaxed);
            let counted = UnderWay(self);
            let done = attempt(sender, head, &message.body, settings.max_receive).await;
            drop(counted);
            match done {
                Ok(answer) => return answer,
                Err(Broken(error)) => {
                    let has_answered = self.forget(number, &error);
                    if !(first && was_not_taken(&error)) {
                        return status_of_error(&error, has_answered).into();
                    }
                }
            }
            first = false;
        }
    }

    async fn connection(&self) -> Result<(SendRequest<Bytes>, u64), Unconnected> {
        self.catch_up().await;
        if let Some(found) = self.found() {
            return Ok(found);
        }
        let _alone = self.connecting.lock().await;
        if let Some(found) = self.found() {
            return Ok(found);
        }
        let (sender, marks) = connect(&self.settings.target, self.settings.tls.as_ref()).await?;
        let mut kept = self.kept.lock();
        kept.marks = marks;
        kept.number += 1;
        kept.sender = Some(sender.clone());
        Ok((sender, kept.number))
    }

    fn found(&self) -> Option<(SendRequest<Bytes>, u64)> {
        let kept = self.kept.lock();
        kept.sender.clone().map(|sender| (sender, kept.number))
    }

    /// Waits until an idle connection has read what has arrived since the last call: perhaps that it has ended.
    async fn catch_up(&self) {
        let idle = self.kept.lock().used.is_some_and(|used| used.elapsed() > UNSEEN);
        if idle && self.under_way.load(Ordering::Relaxed) == 0 {
            give_way().await;
        }
    }

    /// Drops a connection that has ended. Returns whether its server has answered in HTTP/2, as far as is known.
    fn forget(&self, number: u64, error: &h2::Error) -> bool {
        let mut kept = self.kept.lock();
        if kept.number == number && (error.is_io() || error.is_go_away()) {
            kept.sender = None;
        }
        kept.number != number || kept.marks.has_answered.load(Ordering::Relaxed)
    }
}

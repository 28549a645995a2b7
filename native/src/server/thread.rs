//! What the connections of a server share, and what those of one thread do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, watch};

use crate::bridge::queue::Queue;
use crate::calls::exchange::{Inbox, Kind};
use crate::predict::{self, Lapse, Refused, Route, Routes};
use crate::server::busy_poll::{Patience, SPAN};
use crate::server::limits::Limits;

/// Whether the server is to stop, and how long calls in flight may take to end then.
pub type Stop = watch::Receiver<Option<Duration>>;

/// Waits until the server is told to stop; how long calls in flight may take to end.
pub async fn stopped(mut stop: Stop) -> Duration {
    // It fails where the server is gone, and nobody waits any more.
    stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default()
}

/// What all connections of a server share.
pub struct Shared {
    pub methods: FxHashMap<String, (usize, bool)>,
    pub predict: Option<usize>,
    pub limits: Limits,
    pub inbox: Arc<Inbox>,
    pub routes: Py<Routes>,
    pub stopping: AtomicBool,
    queue: Py<Queue>,
    lapses: Mutex<Vec<Lapse>>,
    refused: Mutex<Vec<Refused>>,
}

impl Shared {
    /// `methods` are full paths, each with whether its requests stream.
    pub fn new(
        methods: Vec<(String, bool)>,
        limits: Limits,
        queue: Py<Queue>,
        routes: Py<Routes>,
    ) -> std::io::Result<Self> {
        let methods = methods.into_iter().enumerate().map(|(number, (path, streams))| (path, (number, streams)));
        let methods: FxHashMap<_, _> = methods.collect();
        Ok(Self {
            predict: methods.get(predict::PATH).map(|method| method.0),
            methods,
            limits,
            inbox: Arc::new(Inbox::new()?),
            routes,
            stopping: AtomicBool::new(false),
            queue,
            lapses: Mutex::default(),
            refused: Mutex::default(),
        })
    }

    /// Has a call counted, some time soon, that found the queue full: there may be very many.
    pub fn count_refused(&self, route: &Arc<Py<Route>>, seconds: f64) {
        Refused::add(&mut self.refused.lock(), route, seconds);
    }

    /// Looks for plain Predicts whose callers have left or waited for too long, and has calls counted that have ended.
    pub fn look(&self) {
        let lapsed = self.queue.get().core.lapsed();
        if !lapsed.is_empty() || !self.refused.lock().is_empty() {
            self.lapses.lock().extend(lapsed);
            self.inbox.push(Kind::Lapsed, None, None);
        }
    }

    /// Counts the calls that have ended so.
    pub fn count(&self, py: Python<'_>) -> PyResult<()> {
        let lapses = std::mem::take(&mut *self.lapses.lock());
        let refused = std::mem::take(&mut *self.refused.lock());
        lapses.into_iter().try_for_each(|lapse| lapse.count(py))?;
        refused.into_iter().try_for_each(|refused| refused.count(py))
    }
}

/// A thread that owns connections, as they know it.
pub struct Home {
    pub shared: Arc<Shared>,
    wake_due: AtomicBool,
    pub connections: AtomicUsize,
    answered: Notify,
}

impl Home {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, wake_due: AtomicBool::new(false), connections: AtomicUsize::new(0), answered: Notify::new() }
    }

    /// Calls an idle batch thread when all that has come has been read: the batch is as large as it gets then.
    pub fn wake_when_it_rests(&self) {
        self.wake_due.store(true, Ordering::Relaxed);
    }

    /// A lone task of a quick model is answered sooner from here than by a thread that is to be called first: whether
    /// there was one.
    fn run_or_wake(&self) -> bool {
        let queue = self.shared.queue.get();
        let due = self.wake_due.swap(false, Ordering::Relaxed);
        let ran = due && queue.run_lone();
        if due && !ran {
            queue.core.wake();
        }
        ran
    }

    /// All that has come has been read, and the thread is about to sleep.
    pub fn rests(&self) {
        if self.run_or_wake() {
            self.answered.notify_one();
        }
    }

    /// Keeps the thread awake for a while after each lone call that it has answered. Never ends.
    pub async fn linger(&self) {
        let mut patience = Patience::default();
        loop {
            self.answered.notified().await;
            while patience.lasts() {
                let came = self.comes_within(SPAN).await;
                patience.learn(came);
                if !came {
                    break;
                }
            }
        }
    }

    /// Whether another lone call comes, and has been answered.
    async fn comes_within(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        while Instant::now() < until {
            tokio::task::yield_now().await; // the thread looks after its connections, without sleeping
            if self.run_or_wake() {
                return true;
            }
        }
        false
    }

    /// Calls the thread even though more is being read: it may not end soon.
    pub fn wake_at_last(&self) {
        if self.wake_due.swap(false, Ordering::Relaxed) {
            self.shared.queue.get().core.wake();
        }
    }
}

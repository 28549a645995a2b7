//! The state that all connections of a server share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::HeaderMap;
use pyo3::prelude::*;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::limits::Limits;
use crate::bridge::{EndedCalls, Queue, Routes};
use crate::calls::{Event, Handlers, Inbox, Kind, PlainCalls, PlainFields};
use crate::memory::Budget;
use crate::traces::{Begun, Method, Traces};

/// Whether the server is to stop, and how long calls in flight may then take to end.
pub type Stop = watch::Receiver<Option<Duration>>;

/// Waits until the server is asked to stop; returns how long calls in flight may take to end.
pub async fn stopped(mut stop: Stop) -> Duration {
    // Fails only if the server has gone, when no call needs time to end.
    stop.wait_for(Option::is_some).await.ok().and_then(|grace| *grace).unwrap_or_default()
}

/// The state that all connections of a server share.
pub struct Shared {
    /// Maps each method's full path to its index and whether its requests are streamed.
    pub methods: FxHashMap<String, (usize, bool)>,
    pub plain: PlainCalls,
    pub limits: Limits,
    pub budget: Arc<Budget>,
    pub handlers: Handlers,
    pub stopping: AtomicBool,
    pub queue: Py<Queue>,
    pub ended: EndedCalls,
    /// Which requests are traced; none until traces are enabled.
    pub traces: OnceLock<Arc<Traces>>,
}

impl Shared {
    /// `methods` are full paths, each with whether its requests stream.
    pub fn new(
        methods: Vec<(String, bool)>,
        limits: Limits,
        queue: Py<Queue>,
        routes: Py<Routes>,
        plain: PlainFields,
    ) -> PyResult<Self> {
        let methods = methods.into_iter().enumerate().map(|(number, (path, streams))| (path, (number, streams)));
        let methods: FxHashMap<_, _> = methods.collect();
        Ok(Self {
            plain: PlainCalls::new(plain, routes, |path| methods.get(path).map(|method| method.0))?,
            methods,
            budget: Arc::new(Budget::new(limits.request_memory)),
            limits,
            handlers: Handlers { inbox: Arc::new(Inbox::new()?), questions: Arc::default() },
            stopping: AtomicBool::new(false),
            queue,
            ended: EndedCalls::default(),
            traces: OnceLock::new(),
        })
    }

    /// Begins the trace of a request with these headers, if it is to be traced, and marks the headers.
    pub fn traced(&self, headers: &mut HeaderMap, method: impl FnOnce() -> Method) -> Option<Arc<Begun>> {
        self.traces.get()?.begin(headers, method)
    }

    /// Abandons plain calls whose clients have gone or whose deadlines have passed, and has Python count the calls that
    /// have ended and the runs that are due; returns whether tasks wait, or runs wait to be counted.
    pub fn look_for_ended(&self) -> bool {
        let tasks = &self.queue.get().tasks;
        if self.ended.add_abandoned(tasks.abandoned()) || tasks.due_counts.are_due(Instant::now()) {
            self.handlers.inbox.push(Event::new(Kind::Lapsed, None, None));
        }
        tasks.wait()
    }
}

//! Answers that wait for those of the following runs: a client that gets several answers at the same time is woken
//! once.

use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::task::NativeTask;

/// How long an answer may wait for the answers of the following runs, from the beginning of its own run.
const HOLD: Duration = Duration::from_micros(100);

/// Tasks whose answers are encoded but not sent.
#[derive(Default)]
pub struct Ready {
    tasks: Vec<NativeTask>,
    /// The buffer for encoded answers.
    pub bytes: BytesMut,
    /// When the run of the first of these tasks began.
    since: Option<Instant>,
}

impl Ready {
    /// Adds the tasks of a run that began and has now ended; returns whether the first answer has waited long enough.
    pub fn add(&mut self, tasks: impl IntoIterator<Item = NativeTask>, began: Instant, ended: Instant) -> bool {
        self.tasks.extend(tasks);
        ended - *self.since.get_or_insert(began) >= HOLD
    }

    /// Sends the answers, except to clients that have gone, after `count` has counted their tasks.
    pub fn send(&mut self, count: impl FnOnce(&[NativeTask])) {
        self.since = None;
        self.tasks.retain_mut(|task| task.call.claim());
        count(&self.tasks);
        self.tasks.drain(..).for_each(|task| task.call.send());
    }
}

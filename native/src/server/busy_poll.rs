//! Single calls: a connection thread runs such a call itself, and polls for the next one before it sleeps.
//!
//! # The problem
//!
//! A client that sends one small request, waits for the answer and sends the next one is the worst case for a server
//! that batches. Nothing can be batched, and every call pays for two sleeping threads: the kernel wakes the connection
//! thread when the request comes, and the connection thread wakes a batch thread to run it. For a model that runs in 5
//! us, waking the batch thread costs several times as much as the model.
//!
//! # What happens here
//!
//! 1. While a connection thread reads, it only notes that a batch thread is to be woken (`task_waits`). It wakes that
//!    thread when everything that has arrived has been read (`on_park`, called by tokio before the thread sleeps), so
//!    that calls which arrive together become one batch. Reading may go on for a long time, so the server also calls
//!    `wake_at_last` every 20 ms.
//! 2. Before it wakes a batch thread, the thread asks the queue for a *lone* task (`Queue::run_lone`): exactly one task
//!    waits, its batch is due, no batch runs, and its lane's runs are known to be fast. Such a task is run at once, on
//!    this thread. Meanwhile, the thread cannot serve its connections, which is why this is limited to fast lanes. A
//!    lane becomes fast by earning trust (`queue/pace.rs`): each run that ends within 0.2 ms earns one point, 8 points
//!    are enough, and slower runs cost some or all of the points. Only backends whose runs all take about the same time
//!    are trusted at all (`steady`). The numbers are in `headrace_batching.bridge`.
//! 3. After a lone call, the thread polls its connections for up to 200 us instead of sleeping (`run`), since that
//!    client is likely to call again at once. How often it polls in vain is limited: each time that no call came,
//!    `Patience` doubles the number of lone calls after which the thread does not poll, up to 256. On a machine with
//!    one core, it never polls, since that would keep the client from running.
//!
//! # The benefit
//!
//! One h2load client of a model of 16 floats, two cores that other processes kept busy, each variant alternated with
//! the full server 6 to 14 times, 2026-11-27:
//!
//! - Running lone calls here: 10,410 calls/s instead of 6,704 (96 us instead of 149 per call), for 70 us of CPU per call
//!   instead of 113. The target of 100 us for one caller depends on it.
//! - Polling: no measurable difference (the ratio of the rates was 0.99) on these busy cores, which never slept deeply;
//!   with a pause of 2 ms between calls it cost 40 us of CPU per call. On quiet cores, together with another change, it
//!   lowered the median from 188 to 88 us (2026-11-26). If it gains nothing on an idle machine whose cores do not enter
//!   deep sleep states, it should be removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::shared::Shared;

/// How long a thread polls for the next call. A client that has waited for its answer usually calls again within this
/// time, or not for a while.
const SPAN: Duration = Duration::from_micros(200);

/// The maximum number of calls without polling after polling in vain.
const MOST_SKIPPED: u32 = 256;

/// A connection thread's part in batching: it wakes batch threads, or runs a lone call itself.
pub struct BusyPoll {
    shared: Arc<Shared>,
    wake_due: AtomicBool,
    answered: Notify,
}

impl BusyPoll {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, wake_due: AtomicBool::new(false), answered: Notify::new() }
    }

    /// To be called when a task has been put into the queue. If a batch thread must be woken for it (`wake`), that
    /// happens once everything that has arrived has been read: by then, the batch is as large as it will get.
    pub fn task_waits(&self, wake: bool) {
        if wake {
            self.wake_due.store(true, Ordering::Relaxed);
        }
        self.shared.ended.activity.note();
    }

    /// Wakes the batch thread although this thread is still reading, which may go on for a long time. Any thread.
    pub fn wake_at_last(&self) {
        if self.wake_due.swap(false, Ordering::Relaxed) {
            self.shared.queue.get().tasks.wake();
        }
    }

    /// Called when everything that has arrived has been read, and the thread is about to sleep.
    pub fn on_park(&self) {
        if self.run_or_wake() {
            self.answered.notify_one();
        }
    }

    /// Keeps the thread awake for a while after each lone call that it has answered. Never ends.
    pub async fn run(&self) {
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

    /// Runs a lone call of a fast model, or wakes a batch thread for the new tasks; returns whether there was a lone
    /// call.
    fn run_or_wake(&self) -> bool {
        let queue = self.shared.queue.get();
        let due = self.wake_due.swap(false, Ordering::Relaxed);
        let ran = due && queue.run_lone();
        if due && !ran {
            queue.tasks.wake();
        }
        ran
    }

    /// Whether another lone call has arrived, and has been answered.
    async fn comes_within(&self, span: Duration) -> bool {
        let until = Instant::now() + span;
        while Instant::now() < until {
            tokio::task::yield_now().await; // the thread handles its connections, without sleeping
            if self.run_or_wake() {
                return true;
            }
        }
        false
    }
}

/// Decides whether to poll, by how often polling has been in vain.
#[derive(Default)]
pub struct Patience {
    skip: u32,
    skipped: u32,
}

impl Patience {
    /// To be called when a lone call has been answered; returns whether to poll for the next one.
    pub fn lasts(&mut self) -> bool {
        let lasts = self.skipped >= self.skip;
        self.skipped = if lasts { 0 } else { self.skipped + 1 };
        lasts
    }

    /// Records whether polling found a call, so that polling in vain stays rare whatever the clients do.
    pub fn learn(&mut self, came: bool) {
        self.skip = if came { 0 } else { (2 * self.skip + 1).min(MOST_SKIPPED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(patience: &mut Patience, calls: usize, came: bool) -> usize {
        let mut looks = 0;
        for _ in 0..calls {
            if patience.lasts() {
                patience.learn(came);
                looks += 1;
            }
        }
        looks
    }

    #[test]
    fn a_caller_that_calls_again_at_once_is_looked_for_every_time() {
        assert_eq!(looks(&mut Patience::default(), 1000, true), 1000);
    }

    #[test]
    fn one_that_takes_its_time_is_hardly_looked_for() {
        assert!(looks(&mut Patience::default(), 10_000, false) < 50);
    }

    #[test]
    fn whoever_comes_in_time_is_looked_for_again() {
        let mut patience = Patience::default();
        looks(&mut patience, 10_000, false);
        let found = (0..=MOST_SKIPPED).any(|_| patience.lasts());
        patience.learn(true);

        assert!(found);
        assert_eq!(looks(&mut patience, 10, true), 10);
    }
}

//! Fast batches: a connection thread runs them itself, and polls for the next single call before it sleeps.
//!
//! # The problem
//!
//! A client that sends one small request, waits for the answer and sends the next one is the worst case for a server
//! that batches. Nothing can be batched, and every call pays for two sleeping threads: the kernel wakes the connection
//! thread when the request comes, and the connection thread wakes a batch thread to run it. For a model that runs in 5
//! us, waking the batch thread costs several times as much as the model.
//!
//! On a machine with two cores, a batch thread is also expensive with many clients: it competes with the connection
//! thread, or with a client on the same machine, for a core; it finds none of the calls in its cache; and it frees
//! memory that the connection thread has allocated.
//!
//! # What happens here
//!
//! 1. While a connection thread reads, it only notes that a batch thread is to be woken (`task_waits`). It wakes that
//!    thread when everything that has arrived has been read (`on_park`, called by tokio before the thread sleeps), so
//!    that calls which arrive together become one batch. While a large message is read, the thread does not sleep for
//!    milliseconds, so `after_pause` is called after every turn of that connection. Reading may go on for even longer
//!    without a pause, so the server also calls `wake_at_last` every 20 ms.
//! 2. Before it wakes a batch thread, the thread asks the queue for a *brief* batch (`Queue::run_brief`): all waiting
//!    tasks form one batch, this batch is due, no other batch runs, and its lane's runs of that size are known to be
//!    fast. Such a batch is run at once, on this thread. Meanwhile, the thread cannot serve its connections, which is
//!    why this is limited to fast lanes. A lane becomes fast by earning trust (`queue/pace.rs`): each run that ends
//!    within 0.2 ms earns one point, 8 points are enough, and slower runs cost some or all of the points. Lanes of a
//!    backend whose runs may differ in time earn no trust (`steady`). The numbers are in `headrace_batching.bridge`.
//! 3. A brief batch has only one task if any of its calls came over gRPC, or if there are more than two cores for each
//!    connection thread (`most_together`): the connection thread then reads the next calls while a batch thread runs.
//!    Reading and answering a REST call takes several times as long as the call's share of a batch. So a
//!    connection thread that also runs the batch handles almost as many REST calls per second.
//! 4. Before a thread runs several calls, it looks at its sockets once more (`look`), and again as long as more calls
//!    have come: a batch costs some 30 us, however few rows it has.
//! 5. After a single call, the thread polls its connections for up to 200 us instead of sleeping (`run`), since that
//!    client is likely to call again at once. It polls in vain only rarely: each time that no call came, `Patience`
//!    doubles the number of calls after which the thread does not poll, up to 256. On a machine with one core, it never
//!    polls, since that would keep the client from running.
//!
//! # The benefit
//!
//! Running lone calls here, and polling, were measured on 2026-11-27 with one h2load client of a model of 16 floats, on
//! two cores that other processes kept busy: the full server and one without the part in question ran in turn, 6 to 14
//! times each. For batches, the versions before and after the change were compared on 2026-11-28.
//!
//! - Running lone calls here: 10,410 calls/s instead of 6,704 (96 us instead of 149 per call), for 70 us of CPU per
//!   call instead of 113. The target of 100 us for one caller depends on it.
//! - Running batches of several REST calls here: 10.8 us of CPU per call of one row instead of 14.5, with
//!   64 callers, and 2.0 instead of 1.75 times the rate of an evhttp server that runs no model.
//! - Running batches of several gRPC calls here, too, was tried and is not done: with 64 calls on four connections, a
//!   plain Predict took 7.7 us instead of 9.1, but the rate fell by 9%, since the one connection thread was the limit.
//! - Polling: no measurable difference (the ratio of the rates was 0.99) on these busy cores, which never slept deeply;
//!   with a pause of 2 ms between calls it cost 40 us of CPU per call. On quiet cores, together with another change, it
//!   lowered the median from 188 to 88 us (2026-11-26). If it gains nothing on an idle machine whose cores do not enter
//!   deep sleep states, it should be removed.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

use super::shared::Shared;

/// How long a thread polls for the next call. A client that has waited for its answer usually calls again within this
/// time, or not for a while.
const SPAN: Duration = Duration::from_micros(200);

/// The maximum number of calls without polling after polling in vain.
const MOST_SKIPPED: u32 = 256;

/// The maximum number of REST calls that a thread runs together where it may run several: more would keep its
/// connections waiting.
const MOST_TOGETHER: usize = 256;

/// The maximum number of REST calls in a batch that a connection thread runs itself, on a server with `threads`
/// connection threads.
pub fn most_together(threads: usize) -> usize {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    if cores <= 2 * threads { MOST_TOGETHER } else { 1 }
}

/// A connection thread's part in batching: it wakes batch threads, or runs fast batches itself.
pub struct BusyPoll {
    shared: Arc<Shared>,
    /// The maximum number of REST calls in a batch that the thread runs itself.
    most: usize,
    /// Whether a task that came over gRPC has been put into the queue since the thread last ran a batch or woke a
    /// thread.
    is_grpc: AtomicBool,
    wake_due: AtomicBool,
    /// The number of tasks that have been put into the queue since the thread last ran a batch or woke a thread.
    came: AtomicUsize,
    /// The number of these tasks when the thread last looked at the sockets.
    seen: AtomicUsize,
    looks: Notify,
    answered: Notify,
}

impl BusyPoll {
    /// Creates the state for a thread that itself runs batches of at most this many REST calls.
    pub fn new(shared: Arc<Shared>, most: usize) -> Self {
        let (is_grpc, wake_due) = (AtomicBool::new(false), AtomicBool::new(false));
        let (came, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { shared, most, is_grpc, wake_due, came, seen, looks: Notify::new(), answered: Notify::new() }
    }

    /// Like `task_waits`, for a task that came over gRPC.
    pub fn grpc_task_waits(&self, wake: bool) {
        self.is_grpc.store(true, Ordering::Relaxed);
        self.task_waits(wake);
    }

    /// Must be called when a task has been put into the queue. If a batch thread must be woken for it (`wake`), that
    /// happens once everything that has arrived has been read: by then, the batch is as large as it will get.
    pub fn task_waits(&self, wake: bool) {
        if wake {
            self.wake_due.store(true, Ordering::Relaxed);
        }
        self.came.fetch_add(1, Ordering::Relaxed);
        self.shared.ended.activity.note();
    }

    /// Wakes the batch thread although this thread is still reading, which may go on for a long time.
    /// May be called on any thread.
    pub fn wake_at_last(&self) {
        if self.wake_due.swap(false, Ordering::Relaxed) {
            self.shared.queue.get().tasks.wake();
        }
    }

    /// Called when everything has been read that had arrived at the last look at the sockets, and the thread is about
    /// to sleep.
    pub fn on_park(&self) {
        if self.more_may_come() {
            self.looks.notify_one();
        } else if self.run_or_wake() == 1 {
            self.answered.notify_one();
        }
    }

    /// Called before one of the thread's connections goes on reading a large message, when everything has been read
    /// that had arrived on the others. The thread parks only once the whole message has been read.
    pub fn after_pause(&self) {
        self.run_or_wake();
    }

    /// Each time that several calls are about to be run, first yields, so that tokio looks at the sockets once more.
    /// Never ends.
    pub async fn look(&self) {
        loop {
            self.looks.notified().await;
            yield_now().await; // tokio looks at the sockets before it resumes this task
        }
    }

    /// Whether some of the calls to be run have come since the last look at the sockets, so that there may be more.
    fn more_may_come(&self) -> bool {
        let came = self.came.load(Ordering::Relaxed);
        let seen = self.seen.swap(came, Ordering::Relaxed);
        came > seen.max(1) && came < self.most() && self.wake_due.load(Ordering::Relaxed)
    }

    /// The maximum number of calls of a batch that are run here now.
    fn most(&self) -> usize {
        if self.is_grpc.load(Ordering::Relaxed) { 1 } else { self.most }
    }

    /// Keeps the thread awake for a while after each lone call that it has answered. Never ends.
    pub async fn run(&self) {
        let mut patience = Patience::default();
        loop {
            self.answered.notified().await;
            while patience.lasts() {
                let ran = self.ran_within(SPAN).await;
                patience.learn(ran > 0);
                if ran != 1 {
                    break;
                }
            }
        }
    }

    /// Runs the new calls of a fast model, or wakes a batch thread for them; returns how many have been run.
    fn run_or_wake(&self) -> usize {
        let most = self.most();
        self.came.store(0, Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
        self.is_grpc.store(false, Ordering::Relaxed);
        if !self.wake_due.swap(false, Ordering::Relaxed) {
            return 0;
        }
        let queue = self.shared.queue.get();
        let ran = queue.run_brief(most);
        if ran == 0 {
            queue.tasks.wake();
        }
        ran
    }

    /// Runs the calls that come within some time; returns how many have been run.
    async fn ran_within(&self, span: Duration) -> usize {
        let until = Instant::now() + span;
        while Instant::now() < until {
            yield_now().await; // the thread handles its connections, without sleeping
            if self.more_may_come() {
                continue;
            }
            let ran = self.run_or_wake();
            if ran > 0 {
                return ran;
            }
        }
        0
    }
}

/// Decides whether to poll, by how often polling has been in vain.
#[derive(Default)]
pub struct Patience {
    skip: u32,
    skipped: u32,
}

impl Patience {
    /// Must be called when a lone call has been answered; returns whether to poll for the next one.
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
    fn a_caller_that_takes_its_time_is_hardly_looked_for() {
        assert!(looks(&mut Patience::default(), 10_000, false) < 50);
    }

    #[test]
    fn a_caller_that_comes_in_time_is_looked_for_again() {
        let mut patience = Patience::default();
        looks(&mut patience, 10_000, false);
        let found = (0..=MOST_SKIPPED).any(|_| patience.lasts());
        patience.learn(true);

        assert!(found);
        assert_eq!(looks(&mut patience, 10, true), 10);
    }
}

//! One thread of a load: its connections, its callers, and the loop that begins calls.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::arrivals::Arrivals;
use super::pacer::Pacer;
use super::plan::{Chooser, Kind, Plan};
use super::record::{Outcome, Record};
use crate::client::{Answer, Channel};
use crate::grpc::UNAVAILABLE;

/// Calls that are due within this time begin together: waking up for each of them would cost more than the calls.
const TOGETHER: Duration = Duration::from_micros(20);

/// How long a caller pauses after a call that did not reach the server.
const PAUSE: Duration = Duration::from_millis(10);

/// One thread's part of a load.
pub struct Part {
    pub number: usize,
    pub plan: Plan,
    pub kinds: Arc<Vec<Kind>>,
    pub channels: Vec<Channel>,
    pub record: Arc<Record>,
    pub stopped: watch::Receiver<bool>,
}

/// The time that one thread has spent on its load, in seconds.
#[derive(Clone, Copy, Default)]
pub struct Spent {
    pub cpu: f64,
    pub wall: f64,
}

/// A call that is to begin at a planned time.
struct Due {
    at: Instant,
    kind: usize,
}

/// The state that the callers of one thread share.
struct Callers {
    part: Part,
    chooser: Mutex<Chooser>,
    /// When the load began.
    start: Instant,
    /// The calls that were due when all callers were busy, in the order of their planned times.
    waiting: Mutex<VecDeque<Due>>,
    busy: AtomicUsize,
    idle: Notify,
    next_channel: AtomicUsize,
}

/// Runs a thread's part of the load to its end.
pub async fn run(part: Part) -> Result<Spent, String> {
    for channel in &part.channels {
        channel.connect().await.map_err(|status| status.text)?;
    }
    let (plan, number, mut stopped) = (part.plan.clone(), part.number, part.stopped.clone());
    let callers = Arc::new(Callers {
        chooser: Mutex::new(plan.chooser(number)),
        start: Instant::now(),
        waiting: Mutex::default(),
        busy: AtomicUsize::new(0),
        idle: Notify::new(),
        next_channel: AtomicUsize::new(0),
        part,
    });
    let spent = Meter::new();
    let load = async {
        match plan.arrivals(number) {
            Some(arrivals) => open_loop(&callers, arrivals).await.map_err(|error| error.to_string()),
            None => {
                closed_loop(&callers).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        done = load => done?,
        // Cannot fail: the sender is dropped only with the load.
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    Ok(spent.read())
}

/// Runs a fixed number of callers, each of which calls again as soon as its last call has ended, on the same
/// connection.
async fn closed_loop(callers: &Arc<Callers>) {
    let plan = &callers.part.plan;
    let mut all = JoinSet::new();
    for number in 0..plan.share(plan.concurrency, callers.part.number) {
        let callers = callers.clone();
        all.spawn(async move {
            // Each caller keeps its connection, so that answers which arrive together are followed by calls which are
            // sent together.
            let channel = number % callers.part.channels.len();
            while callers.start.elapsed() < callers.part.plan.length() {
                let kind = callers.choose();
                callers.call(&Due { at: Instant::now(), kind }, Some(channel)).await;
            }
        });
    }
    all.join_all().await;
}

/// Begins each call when it is due, whatever has happened to earlier ones.
async fn open_loop(callers: &Arc<Callers>, arrivals: Arrivals) -> io::Result<()> {
    let pacer = Pacer::new()?;
    for offset in arrivals {
        let at = callers.start + offset;
        let now = Instant::now();
        if at > now {
            pacer.until(at.max(now + TOGETHER)).await?;
        }
        callers.begin(Due { at, kind: callers.choose() });
    }
    while callers.busy.load(Ordering::Relaxed) > 0 {
        callers.idle.notified().await;
    }
    Ok(())
}

impl Callers {
    fn choose(&self) -> usize {
        if self.part.kinds.len() == 1 { 0 } else { self.chooser.lock().choose(&self.part.kinds) }
    }

    /// Makes a call on a task of its own. If too many calls are in flight, it begins as soon as one of them has ended.
    fn begin(self: &Arc<Self>, due: Due) {
        let plan = &self.part.plan;
        if self.busy.load(Ordering::Relaxed) >= plan.share(plan.concurrency, self.part.number) {
            return self.waiting.lock().push_back(due);
        }
        self.busy.fetch_add(1, Ordering::Relaxed);
        let callers = self.clone();
        tokio::spawn(async move {
            let mut next = Some(due);
            while let Some(due) = next {
                callers.call(&due, None).await;
                next = callers.waiting.lock().pop_front();
            }
            if callers.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
                callers.idle.notify_one();
            }
        });
    }

    /// Makes a call: in a closed loop on the caller's own channel, and in an open loop on the channels in turn.
    async fn call(&self, due: &Due, own_channel: Option<usize>) {
        let part = &self.part;
        let closed = own_channel.is_some();
        let message = part.kinds[due.kind].message();
        let place =
            own_channel.unwrap_or_else(|| self.next_channel.fetch_add(1, Ordering::Relaxed) % part.channels.len());
        let channel = &part.channels[place];
        let begun = Instant::now();
        part.record.begin();
        let answer = channel.call(message, Some(part.plan.timeout())).await;
        let ended = Instant::now();
        // A closed loop measures the calls that end within the measured time, and an open loop the calls that were due
        // in it.
        let counted = (if closed { ended } else { due.at }).saturating_duration_since(self.start);
        part.record.end(&Outcome {
            kind: due.kind,
            status: &answer.status,
            latency: ended.saturating_duration_since(due.at),
            lag: begun.saturating_duration_since(due.at),
            took: ended.saturating_duration_since(begun),
            bytes: answer.message.len(),
            measured: counted >= part.plan.warmup() && counted < part.plan.length(),
        });
        if closed && not_reached(&answer) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the call has not reached a server. A full queue is also UNAVAILABLE, but then a server has answered.
fn not_reached(answer: &Answer) -> bool {
    answer.status.code == UNAVAILABLE && !answer.begun
}

/// Measures the resources that this thread uses.
struct Meter {
    cpu: Duration,
    wall: Instant,
}

impl Meter {
    fn new() -> Self {
        Self { cpu: cpu(), wall: Instant::now() }
    }

    fn read(&self) -> Spent {
        Spent { cpu: cpu().saturating_sub(self.cpu).as_secs_f64(), wall: self.wall.elapsed().as_secs_f64() }
    }
}

/// The CPU time of this thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

//! Waiting tasks, handed to a batch thread many at a time.

mod entry;
mod group;
mod pace;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use parking_lot::{Condvar, Mutex, MutexGuard};
use rustc_hash::FxBuildHasher;

pub use entry::{Key, Piece, Token, Waiting, Waits};
use group::{Group, full};
pub use pace::Bounds;
use pace::Pace;

/// How tasks become batches: what the queue must know of `headrace_batching.Options`.
#[derive(Clone, Debug)]
pub struct Rules {
    pub execution_limit: usize,
    pub enqueued_limit: usize,
    pub timeout: f64,
    pub splitting: bool,
    /// Batches of a lane that may run at once.
    pub running_limit: usize,
}

/// Why a task was not put.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Closed,
    Full(String),
}

struct Lane {
    rules: Arc<Rules>,
    rows: usize,
    groups: usize,
    pace: Pace,
    closed: bool,
}

impl Lane {
    fn idle(&self) -> bool {
        self.groups == 0 && self.pace.running == 0
    }

    /// Whether one more batch of it may run.
    fn free(&self) -> bool {
        self.pace.running < self.rules.running_limit
    }

    /// Bounds what waits over all groups to what one group may hold.
    fn check_bound(&self, rows: usize) -> Result<(), Refusal> {
        let (size, most) = (self.rules.execution_limit, self.rules.enqueued_limit);
        let capacity = most.saturating_mul(size) - self.rows;
        if rows <= capacity {
            return Ok(());
        }
        let batches = self.rows.div_ceil(size).max(1);
        if !self.rules.splitting {
            return Err(full(batches, &self.rules));
        }
        let open = self.rows - (batches - 1) * size;
        Err(Refusal::Full(format!(
            "task size is {rows} but scheduling capacity is only {capacity} (num_enqueued_batches={batches}, \
             max_enqueued_batches={most}, open_batch_size={open}, max_execution_batch_size={size})"
        )))
    }
}

/// A lane as it is seen from outside: the rows that wait, whether none waits or runs, and whether it takes no more.
pub struct LaneState {
    pub rows: usize,
    pub idle: bool,
    pub closed: bool,
}

/// The number of a lane: one scheduler's part of a queue.
pub type LaneId = u64;

type Groups<T> = IndexMap<(LaneId, Key), Group<T>, FxBuildHasher>;

struct State<T> {
    groups: Groups<T>,
    lanes: HashMap<LaneId, Lane, FxBuildHasher>,
    next_lane: LaneId,
    idle: usize,
    /// Of the idle threads, those that nobody has called; who fell asleep last is at the end.
    asleep: Vec<Arc<Condvar>>,
    running: usize,
    closed: bool,
}

thread_local! {
    static BELL: Arc<Condvar> = Arc::default();
}

impl<T> State<T> {
    /// Calls the thread that fell asleep last: its core is awake, and what it needs is in its caches.
    fn call_one(&mut self) {
        if let Some(bell) = self.asleep.pop() {
            bell.notify_one();
        }
    }

    fn call_all(&mut self) {
        self.asleep.drain(..).for_each(|bell| {
            bell.notify_one();
        });
    }
}

impl<T: Waits> State<T> {
    fn is_lone(&self, now: f64) -> bool {
        let Some(((lane, _), group)) = self.groups.first().filter(|_| self.running == 0 && self.groups.len() == 1)
        else {
            return false;
        };
        let Some((lane, task)) = self.lanes.get(lane).zip(group.lone()) else { return false };
        lane.pace.quick(task.size_of(task.left())) && group.due(&lane.rules) <= now
    }
}

/// What one look at the queue gave: a lane and its batch, or else when to look again; and who has waited in vain.
pub struct Turn<T> {
    pub lane: Option<LaneId>,
    pub pieces: Vec<Piece<T>>,
    size: usize,
    pub expired: Vec<T>,
    pub gone: Vec<T>,
    pub wake: f64,
    /// Of a group that is no more. What Python does at its end must not happen while the queue is locked.
    spent: Option<Key>,
}

/// The queue. Whoever holds the interpreter lock may wait for its lock; whoever holds its lock waits for nothing.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    drained: Condvar,
}

impl<T: Waits> Queue<T> {
    pub fn new() -> Self {
        let state = State {
            groups: Groups::default(),
            lanes: HashMap::default(),
            next_lane: 0,
            idle: 0,
            asleep: Vec::new(),
            running: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), drained: Condvar::new() }
    }

    /// The bounds are those of a lane whose runs take about as long as the one before.
    pub fn open_lane(&self, rules: Rules, bounds: Option<Bounds>) -> LaneId {
        let mut state = self.state.lock();
        let id = state.next_lane;
        state.next_lane += 1;
        let lane = Lane { rules: Arc::new(rules), rows: 0, groups: 0, pace: Pace::new(bounds), closed: false };
        state.lanes.insert(id, lane);
        id
    }

    /// Adds a task at `now`, at once or not at all; whether it takes a call of `wake` for an idle thread to look at it.
    pub fn put(&self, lane: LaneId, key: Key, mut waiting: Waiting<T>, now: f64) -> Result<bool, (Refusal, T)> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let rows = waiting.rows.max(1);
        let Some(own) = state.lanes.get_mut(&lane).filter(|own| !own.closed && !state.closed) else {
            return Err((Refusal::Closed, waiting.task));
        };
        if let Err(refusal) = own.check_bound(rows) {
            return Err((refusal, waiting.task));
        }
        let entry = state.groups.entry((lane, key));
        let new = matches!(entry, indexmap::map::Entry::Vacant(_));
        let group = entry.or_insert_with(Group::new);
        match group.admit(rows, &own.rules) {
            Ok(slot) => waiting.slot = slot,
            // A group that is new has room.
            Err(refusal) => return Err((refusal, waiting.task)),
        }
        waiting.arrived = now;
        group.tasks[waiting.priority].push_back(waiting);
        own.rows += rows;
        own.groups += usize::from(new);
        Ok(state.idle > 0 && (new || group.rows >= own.rules.execution_limit) && own.free())
    }

    pub fn wake(&self) {
        self.state.lock().call_one();
    }

    /// Waits until a batch is due; false once the queue is closed and empty. Not with the interpreter lock held.
    pub fn wait(&self, clock: impl Fn() -> f64) -> bool {
        loop {
            let now = clock();
            let mut state = self.state.lock();
            let (chosen, wake) = choose(&state, now);
            if chosen.is_some() {
                return true;
            }
            if state.closed && state.groups.is_empty() {
                return false;
            }
            state.idle += 1;
            Self::sleep(&mut state, wake - now);
            state.idle -= 1;
        }
    }

    fn sleep(state: &mut MutexGuard<'_, State<T>>, seconds: f64) {
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|time| Instant::now().checked_add(time));
        let bell = BELL.with(Arc::clone);
        state.asleep.push(Arc::clone(&bell));
        match until {
            Some(until) => {
                bell.wait_until(state, until);
            }
            None => bell.wait(state),
        }
        state.asleep.retain(|other| !Arc::ptr_eq(other, &bell)); // it may not have been called
    }

    /// Whether one task waits, its batch is due, nothing runs, and its lane's runs are quick.
    pub fn is_lone(&self, now: f64) -> bool {
        self.state.lock().is_lone(now)
    }

    /// As `turn` where there is a lone task; otherwise nothing.
    pub fn take_lone(&self, now: f64) -> Option<Turn<T>> {
        let mut state = self.state.lock();
        state.is_lone(now).then(|| self.look(&mut state, now))
    }

    /// One look at the queue: the batch that is due, if any, taken out of it.
    pub fn turn(&self, now: f64) -> Turn<T> {
        self.look(&mut self.state.lock(), now)
    }

    fn look(&self, state: &mut State<T>, now: f64) -> Turn<T> {
        let (chosen, wake) = choose(state, now);
        let mut turn =
            Turn { lane: None, pieces: Vec::new(), size: 0, expired: Vec::new(), gone: Vec::new(), wake, spent: None };
        let Some(index) = chosen else { return turn };
        let Some((key, mut group)) = state.groups.shift_remove_index(index) else { return turn };
        let Some(lane) = state.lanes.get_mut(&key.0) else { return turn };
        let before = group.rows;
        group.take(now, &lane.rules, &mut turn);
        lane.rows -= before - group.rows;
        if !turn.pieces.is_empty() {
            lane.pace.begin(now, turn.size);
            state.running += 1;
            turn.lane = Some(key.0);
        }
        if group.is_empty() {
            lane.groups -= 1;
            turn.spent = Some(key.1);
        } else {
            state.groups.insert(key, group); // behind all others: they take turns
        }
        let free = |(lane, _): &(LaneId, Key)| state.lanes.get(lane).is_some_and(Lane::free);
        if state.idle > 0 && state.groups.keys().any(free) {
            state.call_one(); // what is left may be a batch for another thread
        }
        if turn.lane.is_none() {
            self.drained.notify_all();
        }
        turn
    }

    /// Finds those for whom nobody waits any more. They leave the queue as the next batch forms.
    pub fn lapsed(&self, now: f64) -> Vec<T::Lapse> {
        let mut state = self.state.lock();
        let waiting = state.groups.values_mut().flat_map(|group| group.tasks.iter_mut().flatten());
        waiting
            .filter_map(|waiting| waiting.task.lapse(waiting.deadline.is_some_and(|deadline| deadline <= now)))
            .collect()
    }

    /// Says that a batch of the lane has ended, at `now`.
    pub fn finish(&self, lane: LaneId, now: f64) {
        let mut state = self.state.lock();
        if let Some(lane) = state.lanes.get_mut(&lane) {
            lane.pace.end(now);
            state.running -= 1;
        }
        self.drained.notify_all();
        if state.closed {
            state.call_all(); // who waits for a lane to be free may find that it was the last
        }
    }

    /// Threads that wait for a batch.
    pub fn idle(&self) -> usize {
        self.state.lock().idle
    }

    /// What is to be said of a lane; one that is no more is idle and closed.
    pub fn lane_state(&self, lane: LaneId) -> LaneState {
        match self.state.lock().lanes.get(&lane) {
            Some(lane) => LaneState { rows: lane.rows, idle: lane.idle(), closed: lane.closed },
            None => LaneState { rows: 0, idle: true, closed: true },
        }
    }

    /// Takes no more tasks of the lane, runs at once what waits, and returns when the last batch has ended.
    pub fn close_lane(&self, lane: LaneId) {
        let mut state = self.state.lock();
        if let Some(lane) = state.lanes.get_mut(&lane) {
            lane.closed = true;
        }
        state.groups.iter_mut().filter(|((id, _), _)| *id == lane).for_each(|(_, group)| group.closing = true);
        state.call_all();
        self.drained.wait_while(&mut state, |state| state.lanes.get(&lane).is_some_and(|lane| !lane.idle()));
        state.lanes.remove(&lane);
    }

    /// Takes no more tasks at all; what waits is due at once.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.groups.values_mut().for_each(|group| group.closing = true);
        state.call_all();
    }
}

/// The batching decision, as `headrace_batching.policy.choose` has it: a group's index, or when to look again.
fn choose<T: Waits>(state: &State<T>, now: f64) -> (Option<usize>, f64) {
    let (mut second, mut wake) = (None, f64::INFINITY);
    for (index, ((lane, _), group)) in state.groups.iter().enumerate() {
        // A lane that is not free is looked at by the thread that ends one of its batches, when it comes for the next.
        let Some(lane) = state.lanes.get(lane).filter(|lane| lane.free()) else { continue };
        let due = group.due(&lane.rules);
        if due > now {
            wake = wake.min(due);
        } else if group.priority() == 0 {
            return (Some(index), now);
        } else if second.is_none() {
            second = Some(index);
        }
    }
    let wake = if second.is_some() { now } else { wake };
    (second, wake)
}

//! Waiting tasks, handed to a batch thread many at a time.

use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use parking_lot::{Condvar, Mutex, MutexGuard};
use pyo3::prelude::*;
use rustc_hash::FxBuildHasher;

/// The priorities, the first first.
pub const PRIORITIES: usize = 2;

/// The most bytes that the joined inputs of a batch may take: a few bytes of a request can stand for megabytes of equal
/// values, and a batch would write them all out.
const MAX_BATCH_BYTES: usize = 256 << 20;

/// What must be equal for two tasks to share a batch.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// All that pass the signature's checks may.
    Any,
    /// Each input's rank and dimensions beyond axis 0.
    Shapes(Vec<usize>),
    /// Another key of Python's, by the token that stands for it.
    Other(Token),
}

/// A Python object that is equal to itself alone.
#[derive(Clone, Debug)]
pub struct Token(pub Arc<Py<PyAny>>);

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_ptr() == other.0.as_ptr()
    }
}

impl Eq for Token {}

impl Hash for Token {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.0.as_ptr() as usize).hash(state);
    }
}

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

/// A task as the queue sees it.
pub trait Waits: Sized {
    type Lapse;

    /// Whether nobody waits for its answer any more. Under the queue's lock.
    fn gone(&mut self) -> bool;

    /// What is to be said of a task for which nobody waits any more, the first time that this is found out; `late` if
    /// its deadline has passed. Under the queue's lock, without the interpreter's.
    fn lapse(&mut self, late: bool) -> Option<Self::Lapse>;

    /// Another hold on it, for some of its rows; None for a task that is only ever run as a whole.
    fn share(&self) -> Option<Self>;
}

/// A task in the queue. Times are seconds on the queue's clock.
pub struct Waiting<T> {
    pub task: T,
    pub rows: usize,
    /// What one of its rows takes in a batch.
    pub row_bytes: usize,
    pub deadline: Option<f64>,
    pub priority: usize,
    pub arrived: f64,
    slot: u64,
    taken: usize,
}

impl<T> Waiting<T> {
    pub fn new(task: T, rows: usize, row_bytes: usize, deadline: Option<f64>, priority: usize) -> Self {
        let priority = priority.min(PRIORITIES - 1);
        Self { task, rows, row_bytes, deadline, priority, arrived: 0.0, slot: 0, taken: 0 }
    }

    fn left(&self) -> usize {
        (self.rows - self.taken).max(1)
    }

    /// As `headrace_batching.Task.size_of` has it.
    fn size_of(&self, rows: usize) -> usize {
        rows.saturating_mul(self.row_bytes.max(1))
    }

    fn into_piece(self) -> Piece<T> {
        Piece { task: self.task, start: self.taken, stop: self.rows, arrived: self.arrived }
    }
}

impl<T: Waits> Waiting<T> {
    /// The next `rows` rows, of more.
    fn split(&mut self, rows: usize) -> Option<Piece<T>> {
        let start = self.taken;
        let task = self.task.share()?;
        self.taken += rows;
        Some(Piece { task, start, stop: self.taken, arrived: self.arrived })
    }
}

/// Rows `start` to `stop` of a task, that have left the queue.
pub struct Piece<T> {
    pub task: T,
    pub start: usize,
    pub stop: usize,
    pub arrived: f64,
}

/// Why a task was not put.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    Closed,
    Full(String),
}

struct Group<T> {
    tasks: [VecDeque<Waiting<T>>; PRIORITIES],
    slots: HashMap<u64, usize, FxBuildHasher>,
    last_slot: u64,
    rows: usize,
    closing: bool,
}

impl<T: Waits> Group<T> {
    fn new() -> Self {
        Self { tasks: Default::default(), slots: HashMap::default(), last_slot: 0, rows: 0, closing: false }
    }

    fn is_empty(&self) -> bool {
        self.tasks.iter().all(VecDeque::is_empty)
    }

    /// The one task, if there are no more.
    fn lone(&self) -> Option<&Waiting<T>> {
        let mut tasks = self.tasks.iter().flatten();
        tasks.next().filter(|_| tasks.next().is_none())
    }

    fn due(&self, rules: &Rules) -> f64 {
        if self.closing || self.rows >= rules.execution_limit {
            return f64::NEG_INFINITY;
        }
        let oldest = self.tasks.iter().filter_map(VecDeque::front).map(|waiting| waiting.arrived);
        oldest.fold(f64::INFINITY, f64::min) + rules.timeout
    }

    fn priority(&self) -> usize {
        self.tasks.iter().position(|tasks| !tasks.is_empty()).unwrap_or(PRIORITIES)
    }

    /// TF Serving: tasks are counted to waiting batches in order of arrival, and so many of these may wait.
    fn admit(&mut self, rows: usize, rules: &Rules) -> Result<u64, Refusal> {
        let mut opened = self.slots.get(&self.last_slot).copied().unwrap_or(0);
        if opened + rows > rules.execution_limit && !rules.splitting {
            if self.slots.len() >= rules.enqueued_limit {
                return Err(full(self.slots.len(), rules));
            }
            self.last_slot += 1;
            opened = 0;
        }
        self.slots.insert(self.last_slot, opened + rows);
        self.rows += rows;
        Ok(self.last_slot)
    }

    fn leave(&mut self, slot: u64, rows: usize) {
        self.rows -= rows;
        let Some(left) = self.slots.get_mut(&slot) else { return };
        *left -= rows;
        if *left == 0 {
            self.slots.remove(&slot);
        }
    }
}

impl<T: Waits> Group<T> {
    /// The next batch; a task that does not fit ends it, unless it may be split. So does one with which the joined
    /// inputs would take more than `MAX_BATCH_BYTES`.
    fn take(&mut self, now: f64, rules: &Rules, turn: &mut Turn<T>) {
        let mut room = rules.execution_limit;
        let mut widest = 0;
        for priority in 0..PRIORITIES {
            while room > 0
                && let Some(mut waiting) = self.tasks[priority].pop_front()
            {
                let left = waiting.left();
                let gone = waiting.task.gone();
                if gone || waiting.deadline.is_some_and(|deadline| deadline <= now) {
                    self.leave(waiting.slot, left);
                    let dropped = if gone { &mut turn.gone } else { &mut turn.expired };
                    dropped.push(waiting.task);
                    continue;
                }
                widest = waiting.row_bytes.max(widest);
                let bytes = (rules.execution_limit - room + left.min(room)).saturating_mul(widest);
                if bytes > MAX_BATCH_BYTES && !turn.pieces.is_empty() {
                    self.tasks[priority].push_front(waiting);
                    return;
                }
                if left > room {
                    let size = waiting.size_of(room);
                    let piece = if rules.splitting { waiting.split(room) } else { None };
                    if piece.is_some() {
                        self.leave(waiting.slot, room);
                        turn.size = turn.size.saturating_add(size);
                    }
                    turn.pieces.extend(piece);
                    self.tasks[priority].push_front(waiting);
                    return;
                }
                room -= left;
                self.leave(waiting.slot, left);
                turn.size = turn.size.saturating_add(waiting.size_of(left));
                turn.pieces.push(waiting.into_piece());
            }
        }
    }
}

fn full(waiting: usize, rules: &Rules) -> Refusal {
    let most = rules.enqueued_limit;
    Refusal::Full(format!("currently {waiting} batches enqueued and max_enqueued_batches is {most}"))
}

/// As in `headrace_batching.policy`.
const MOST_TRUST: usize = 16;
const ENOUGH_TRUST: usize = 8;
const LOST_TRUST: usize = 4;

/// Seconds: `QUICK` and `SLOW` of `headrace_batching.policy`.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub quick: f64,
    pub slow: f64,
}

/// How long the runs of one lane take, as `headrace_batching.policy.Pace` has it; without bounds none is ever quick.
struct Pace {
    bounds: Option<Bounds>,
    running: usize,
    began: f64,
    size: usize,
    trust: usize,
    most: usize,
}

impl Pace {
    fn new(bounds: Option<Bounds>) -> Self {
        Self { bounds, running: 0, began: 0.0, size: 0, trust: 0, most: 0 }
    }

    fn quick(&self, size: usize) -> bool {
        self.trust >= ENOUGH_TRUST && size <= self.most
    }

    fn begin(&mut self, now: f64, size: usize) {
        if self.running == 0 {
            (self.began, self.size) = (now, 0);
        }
        self.size = self.size.max(size);
        self.running += 1;
    }

    fn end(&mut self, now: f64) {
        self.running -= 1;
        if self.running > 0 {
            return;
        }
        let Some(bounds) = self.bounds else { return };
        let ran = now - self.began;
        if ran <= bounds.quick {
            self.trust = MOST_TRUST.min(self.trust + 1);
            self.most = self.most.max(self.size);
        } else if self.size <= self.most {
            self.trust = if ran <= bounds.slow { self.trust.saturating_sub(LOST_TRUST) } else { 0 };
            self.most = if self.trust > 0 { self.most } else { 0 };
        }
    }
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
    running: usize,
    closed: bool,
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
    changed: Condvar,
    drained: Condvar,
}

impl<T: Waits> Queue<T> {
    pub fn new() -> Self {
        let state = State {
            groups: Groups::default(),
            lanes: HashMap::default(),
            next_lane: 0,
            idle: 0,
            running: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), drained: Condvar::new() }
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
        let _held = self.state.lock();
        self.changed.notify_one();
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
            self.sleep(&mut state, wake - now);
            state.idle -= 1;
        }
    }

    fn sleep(&self, state: &mut MutexGuard<'_, State<T>>, seconds: f64) {
        let until = Duration::try_from_secs_f64(seconds).ok().and_then(|time| Instant::now().checked_add(time));
        match until {
            Some(until) => {
                self.changed.wait_until(state, until);
            }
            None => self.changed.wait(state),
        }
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
            self.changed.notify_one(); // what is left may be a batch for another thread
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
            self.changed.notify_all(); // who waits for a lane to be free may find that it was the last
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
        self.changed.notify_all();
        self.drained.wait_while(&mut state, |state| state.lanes.get(&lane).is_some_and(|lane| !lane.idle()));
        state.lanes.remove(&lane);
    }

    /// Takes no more tasks at all; what waits is due at once.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.groups.values_mut().for_each(|group| group.closing = true);
        self.changed.notify_all();
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

//! Holds the waiting tasks, and hands them to batch threads, many at a time. Independent of Python and of any protocol.
//!
//! A *lane* is one scheduler's part of the queue. A *group* holds the waiting tasks of a lane that may share a batch. A
//! *turn* is the result of one look at the queue: the batch that is due, if there is one. A *series* is several tasks
//! that leave the queue together, but run one by one. A *brief* batch can run at once on the thread that has received
//! its tasks (`Queue::is_brief`). A *detached* lane runs its batches without the interpreter, except those with a
//! task from Python.

#[cfg(test)]
mod detached_tests;
mod entry;
mod group;
mod lane;
mod pace;
#[cfg(test)]
mod series_tests;
#[cfg(test)]
mod splitting_tests;
mod state;
mod target;
#[cfg(test)]
mod tests;
mod turn;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

pub use entry::{Entry, Key, LaneId, Piece, Token, Waits};
use group::Group;
use lane::Lane;
pub use lane::{Full, LaneState, Refusal, Rules};
pub use pace::Bounds;
use pace::Pace;
use state::{State, choose};
use target::Slots;
pub use target::Target;
pub use turn::{Detached, Turn};

thread_local! {
    /// Wakes this thread while it sleeps in `wait`.
    static WAKE_UP: Arc<Condvar> = Arc::default();
}

/// The queue. A thread that holds the interpreter lock may wait for the queue's lock; a thread that holds the queue's
/// lock waits for nothing.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    drained: Condvar,
}

impl<T: Waits> Queue<T> {
    pub fn new() -> Self {
        Self { state: Mutex::new(State::new()), drained: Condvar::new() }
    }

    /// Opens a lane. It has bounds only if all its runs take about the same time.
    pub fn open_lane(&self, rules: Rules, bounds: Option<Bounds>) -> LaneId {
        let mut state = self.state.lock();
        let id = state.next_lane;
        state.next_lane += 1;
        let slots = Slots::new(rules.slots);
        let (rules, pace) = (Arc::new(rules), Pace::new(bounds));
        let lane =
            Lane { rules, rows: 0, groups: 0, pace, closed: false, detached: false, target: None, slots, shed: 0 };
        state.lanes.insert(id, lane);
        id
    }

    /// Adds a task at `now`, or refuses it at once; returns whether `wake` must be called for an idle thread.
    pub fn put(&self, lane: LaneId, key: Key, mut entry: Entry<T>, now: f64) -> Result<bool, (Refusal, T)> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let rows = entry.rows.max(1);
        let Some(own) = state.lanes.get_mut(&lane).filter(|own| !own.closed && !state.closed) else {
            return Err((Refusal::Closed, entry.task));
        };
        if let Err(refusal) = own.check_bound(rows).and_then(|()| own.check_objective(rows, now)) {
            return Err((refusal, entry.task));
        }
        let place = state.groups.entry((lane, key));
        let new = matches!(place, indexmap::map::Entry::Vacant(_));
        let group = place.or_insert_with(Group::new);
        match group.admit(rows, &own.rules) {
            Ok(slot) => entry.slot = slot,
            // Only an existing group refuses: a new one has room.
            Err(refusal) => return Err((refusal, entry.task)),
        }
        entry.arrived = now;
        group.add(entry);
        own.rows += rows;
        own.groups += usize::from(new);
        Ok(state.idle > 0 && (new || group.rows >= own.size()) && own.free())
    }

    pub fn wake(&self) {
        self.state.lock().call_one();
    }

    /// Waits until a batch is due; returns false once the queue is closed and empty. Must not be called while the
    /// interpreter lock is held.
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
        let wake_up = WAKE_UP.with(Arc::clone);
        state.asleep.push(Arc::clone(&wake_up));
        match until {
            Some(until) => {
                wake_up.wait_until(state, until);
            }
            None => wake_up.wait(state),
        }
        state.asleep.retain(|other| !Arc::ptr_eq(other, &wake_up)); // the thread may have woken up without being called
    }

    /// Whether nothing runs, and all waiting tasks form one batch of at most `most` tasks, which is due and of a size
    /// whose runs are fast on this lane.
    pub fn is_brief(&self, now: f64, most: usize) -> bool {
        self.state.lock().is_brief(now, most)
    }

    /// Like `turn` if `is_brief` is true; otherwise does nothing.
    pub fn take_brief(&self, now: f64, most: usize) -> Option<Turn<T>> {
        let mut state = self.state.lock();
        state.is_brief(now, most).then(|| self.look(&mut state, now))
    }

    /// Like `take_brief` for a batch that runs without the interpreter; may be called without the interpreter lock.
    pub fn take_brief_detached(&self, now: f64, most: usize) -> Option<Turn<T>> {
        let mut state = self.state.lock();
        (state.is_brief(now, most) && state.is_detached(0)).then(|| self.look(&mut state, now))
    }

    /// Like `turn` if the batch that is due runs without the interpreter; otherwise does nothing. May be called without
    /// the interpreter lock.
    pub fn turn_detached(&self, now: f64) -> Detached<T> {
        let mut state = self.state.lock();
        match choose(&state, now).0 {
            None => Detached::Nothing,
            Some(index) if state.is_detached(index) => Detached::Turn(self.look(&mut state, now)),
            Some(_) => Detached::NeedsPython,
        }
    }

    /// Records that a lane's batches may run without the interpreter.
    pub fn detach(&self, lane: LaneId) {
        if let Some(lane) = self.state.lock().lanes.get_mut(&lane) {
            lane.detached = true;
        }
    }

    /// Looks at the queue once: takes the batch that is due, if there is one.
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
        group.take_series(now, lane, &mut turn);
        lane.rows -= before - group.rows;
        if !turn.pieces.is_empty() {
            lane.begin(now, &turn);
            state.running += 1;
            turn.lane = Some(key.0);
        }
        if group.is_empty() {
            lane.groups -= 1;
            turn.spent = Some(key.1);
        } else {
            state.groups.insert(key, group); // last, since the groups take turns
        }
        let free = |(lane, _): &(LaneId, Key)| state.lanes.get(lane).is_some_and(Lane::free);
        if state.idle > 0 && state.groups.keys().any(free) {
            state.call_one(); // another batch may be due, for another thread
        }
        if turn.lane.is_none() {
            self.drained.notify_all();
        }
        turn
    }

    /// Abandons the tasks whose client has gone or whose deadline has passed. They leave the queue when the next batch
    /// forms.
    pub fn abandoned(&self, now: f64) -> Vec<T::Abandoned> {
        let mut state = self.state.lock();
        let waiting = state.groups.values_mut().flat_map(|group| group.tasks.iter_mut().flatten());
        waiting
            .filter_map(|waiting| waiting.task.abandon(waiting.deadline.is_some_and(|deadline| deadline <= now)))
            .collect()
    }

    /// Whether any task waits.
    pub fn waits(&self) -> bool {
        !self.state.lock().groups.is_empty()
    }

    /// Records that a batch of the lane has ended, at `now`.
    pub fn finish(&self, lane: LaneId, now: f64) {
        let mut state = self.state.lock();
        if let Some(lane) = state.lanes.get_mut(&lane) {
            lane.end(now);
            state.running -= 1;
        }
        self.drained.notify_all();
        if state.closed {
            state.call_all(); // this may have been the last batch, so that sleeping threads can end
        }
    }

    /// For a lane whose tasks run one by one: records how long the run of one task took, and the task's size.
    pub fn ran(&self, lane: LaneId, seconds: f64, size: usize) {
        if let Some(lane) = self.state.lock().lanes.get_mut(&lane) {
            lane.pace.ran(seconds, size);
        }
    }

    /// The number of threads that wait for a batch.
    pub fn idle(&self) -> usize {
        self.state.lock().idle
    }

    /// The state of a lane; a lane that no longer exists is idle and closed.
    pub fn lane_state(&self, lane: LaneId) -> LaneState {
        match self.state.lock().lanes.get(&lane) {
            Some(lane) => LaneState { rows: lane.rows, idle: lane.idle(), closed: lane.closed, shed: lane.shed },
            None => LaneState { rows: 0, idle: true, closed: true, shed: 0 },
        }
    }

    /// Sets the target by which the lane forms batches and accepts tasks.
    pub fn steer(&self, lane: LaneId, target: Target) {
        let mut state = self.state.lock();
        let Some(lane) = state.lanes.get_mut(&lane) else { return };
        lane.target = Some(target);
        if lane.groups > 0 && state.idle > 0 {
            state.call_one(); // a batch may be due earlier than the idle threads expect
        }
    }

    /// Accepts no more tasks of the lane, makes the waiting ones due at once, and returns when the last batch has
    /// ended.
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

    /// Accepts no more tasks on any lane, and makes the waiting ones due at once.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.groups.values_mut().for_each(|group| group.closing = true);
        state.call_all();
    }
}

//! The state under the queue's lock: the waiting groups and the sleeping threads. Decides which group is next.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use parking_lot::Condvar;
use rustc_hash::FxBuildHasher;

use super::entry::{Key, LaneId, Waits};
use super::group::Group;
use super::lane::Lane;

pub type Groups<T> = IndexMap<(LaneId, Key), Group<T>, FxBuildHasher>;

pub struct State<T> {
    pub groups: Groups<T>,
    pub lanes: HashMap<LaneId, Lane, FxBuildHasher>,
    pub next_lane: LaneId,
    pub idle: usize,
    /// The idle threads that have not been woken; the last one to fall asleep is at the end.
    pub asleep: Vec<Arc<Condvar>>,
    pub running: usize,
    pub closed: bool,
}

impl<T> State<T> {
    pub fn new() -> Self {
        Self {
            groups: Groups::default(),
            lanes: HashMap::default(),
            next_lane: 0,
            idle: 0,
            asleep: Vec::new(),
            running: 0,
            closed: false,
        }
    }

    /// Wakes the thread that fell asleep last: its core is still awake, and its data is in the caches.
    pub fn call_one(&mut self) {
        if let Some(sleeper) = self.asleep.pop() {
            sleeper.notify_one();
        }
    }

    pub fn call_all(&mut self) {
        self.asleep.drain(..).for_each(|sleeper| {
            sleeper.notify_one();
        });
    }
}

impl<T: Waits> State<T> {
    /// Whether the batch of the group with this index runs without the interpreter.
    pub fn is_detached(&self, index: usize) -> bool {
        let Some(((lane, _), group)) = self.groups.get_index(index) else { return false };
        self.lanes.get(lane).is_some_and(|lane| lane.detached) && !group.needs_python()
    }

    /// Whether nothing runs, and all waiting tasks form one batch of at most `most` tasks, which is due and of a size
    /// whose runs are fast on this lane.
    pub fn is_brief(&self, now: f64, most: usize) -> bool {
        let Some(((lane, _), group)) = self.groups.first().filter(|_| self.running == 0 && self.groups.len() == 1)
        else {
            return false;
        };
        let Some(lane) = self.lanes.get(lane) else { return false };
        group.whole(lane, most).is_some_and(|size| lane.pace.quick(size)) && group.due(lane) <= now
    }
}

/// The batching decision, as in `headrace_batching.policy.choose`: a group's index, or when to look again.
pub fn choose<T: Waits>(state: &State<T>, now: f64) -> (Option<usize>, f64) {
    let (mut second, mut wake) = (None, f64::INFINITY);
    for (index, ((lane, _), group)) in state.groups.iter().enumerate() {
        // A lane that is not free is checked again when one of its batches ends.
        let Some(lane) = state.lanes.get(lane).filter(|lane| lane.free()) else { continue };
        let due = group.due(lane);
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

//! The tasks of one lane that may share a batch: accepted and taken in order, as many as fit.

use std::collections::{HashMap, VecDeque};

use rustc_hash::FxBuildHasher;

use super::entry::{Entry, PRIORITIES, Waits};
use super::lane::{Lane, Refusal, Rules};
use super::turn::Turn;

/// The maximum number of tasks that leave the queue together to run one by one: their runs take a
/// few hundred microseconds.
const MOST_IN_SERIES: usize = 16;

/// Waiting tasks of one key. Used under the queue's lock.
pub struct Group<T> {
    pub tasks: [VecDeque<Entry<T>>; PRIORITIES],
    slots: HashMap<u64, usize, FxBuildHasher>,
    last_slot: u64,
    pub rows: usize,
    /// The number of tasks that can be looked at only with the interpreter lock.
    of_python: usize,
    pub closing: bool,
}

impl<T: Waits> Group<T> {
    pub fn new() -> Self {
        Self {
            tasks: Default::default(),
            slots: HashMap::default(),
            last_slot: 0,
            rows: 0,
            of_python: 0,
            closing: false,
        }
    }

    /// Whether looking at one of the tasks needs the interpreter lock.
    pub fn needs_python(&self) -> bool {
        self.of_python > 0
    }

    /// Adds a task that has been admitted.
    pub fn add(&mut self, entry: Entry<T>) {
        self.of_python += usize::from(entry.task.needs_python());
        self.tasks[entry.priority].push_back(entry);
    }

    pub fn is_empty(&self) -> bool {
        self.tasks.iter().all(VecDeque::is_empty)
    }

    /// The size of the group's next batch or series, if that has all waiting tasks, and at most `most` of them. The size
    /// of a series is that of its largest task.
    pub fn whole(&self, lane: &Lane, most: usize) -> Option<usize> {
        let count = self.tasks.iter().map(VecDeque::len).sum::<usize>();
        let sizes = || self.tasks.iter().flatten().map(|task| task.size_of(task.left()));
        if lane.rules.one_by_one {
            let largest = sizes().max()?;
            // Runs by Python take several times as long, and would keep the connections waiting.
            let alone = lane.detached && !self.needs_python();
            let in_series = count <= most.min(MOST_IN_SERIES) && alone && lane.pace.brief(largest);
            return (count == 1 || in_series).then_some(largest);
        }
        (count == 1 || count <= most && self.rows <= lane.size()).then(|| sizes().fold(0, usize::saturating_add))
    }

    pub fn due(&self, lane: &Lane) -> f64 {
        if self.closing || self.rows >= lane.size() {
            return f64::NEG_INFINITY;
        }
        let oldest = self.tasks.iter().filter_map(VecDeque::front).map(|waiting| waiting.arrived);
        oldest.fold(f64::INFINITY, f64::min) + lane.timeout()
    }

    pub fn priority(&self) -> usize {
        self.tasks.iter().position(|tasks| !tasks.is_empty()).unwrap_or(PRIORITIES)
    }

    /// Assigns a task to a waiting batch, or refuses it. As in TF Serving, tasks are assigned in order of arrival, and
    /// the number of waiting batches is limited.
    pub fn admit(&mut self, rows: usize, rules: &Rules) -> Result<u64, Refusal> {
        let mut opened = self.slots.get(&self.last_slot).copied().unwrap_or(0);
        if opened + rows > rules.execution_limit && !rules.splitting {
            if self.slots.len() >= rules.enqueued_limit {
                return Err(rules.full(self.slots.len()));
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
    /// Takes several tasks of a lane whose tasks run one by one, as long as their runs are brief and they may leave
    /// together.
    pub fn take_series(&mut self, now: f64, lane: &Lane, turn: &mut Turn<T>) {
        self.take(now, lane, turn);
        let mut largest = turn.size;
        while turn.pieces.len() < MOST_IN_SERIES && self.goes_on(lane, turn) {
            let taken = turn.pieces.len();
            turn.size = 0;
            self.take(now, lane, turn);
            largest = largest.max(turn.size);
            if turn.pieces.len() == taken {
                break;
            }
        }
        turn.size = largest;
    }

    /// Whether the next task may follow those that have been taken, in a series.
    fn goes_on(&self, lane: &Lane, turn: &Turn<T>) -> bool {
        let brief = |size| lane.rules.one_by_one && lane.pace.brief(size);
        let next = self.tasks.get(self.priority()).and_then(VecDeque::front);
        turn.pieces.last().is_some_and(|last| last.task.in_series())
            && brief(turn.size)
            && next.is_some_and(|next| next.task.in_series() && brief(next.size_of(next.left())))
    }

    /// Moves the next batch from the queue to `turn`. The first task is always taken, even if it is larger than the
    /// batches of a latency objective. A later task ends the batch if it does not fit and cannot be split, if the joined
    /// inputs would exceed the limit in bytes with it, or if it must run alone.
    pub fn take(&mut self, now: f64, lane: &Lane, turn: &mut Turn<T>) {
        let (rules, limit) = (&lane.rules, lane.size());
        let mut room = limit;
        let mut widest = 0;
        for priority in 0..PRIORITIES {
            while room > 0
                && let Some(mut waiting) = self.tasks[priority].pop_front()
            {
                let left = waiting.left();
                let gone = waiting.task.gone();
                if gone || waiting.deadline.is_some_and(|deadline| deadline <= now) {
                    self.leave(waiting.slot, left);
                    self.of_python -= usize::from(waiting.task.needs_python());
                    let dropped = if gone { &mut turn.gone } else { &mut turn.expired };
                    dropped.push(waiting.task);
                    continue;
                }
                widest = waiting.row_bytes.max(widest);
                let bytes = (limit - room + left.min(room)).saturating_mul(widest);
                let first = turn.pieces.is_empty();
                let wide = bytes > rules.max_batch_bytes;
                if !first && (wide || rules.one_by_one && !waiting.task.in_series()) {
                    return self.tasks[priority].push_front(waiting);
                }
                if left > room && (rules.splitting && self.cut(&mut waiting, room, turn) || !first) {
                    return self.tasks[priority].push_front(waiting);
                }
                room = room.saturating_sub(left);
                self.leave(waiting.slot, left);
                self.of_python -= usize::from(waiting.task.needs_python());
                turn.size = turn.size.saturating_add(waiting.size_of(left));
                turn.pieces.push(waiting.into_piece());
            }
        }
    }

    /// Moves the next `rows` rows of a task that has more to `turn`. Returns false if the task must run as a whole.
    fn cut(&mut self, waiting: &mut Entry<T>, rows: usize, turn: &mut Turn<T>) -> bool {
        let Some(piece) = waiting.split(rows) else { return false };
        self.leave(waiting.slot, rows);
        turn.size = turn.size.saturating_add(waiting.size_of(rows));
        turn.pieces.push(piece);
        true
    }
}

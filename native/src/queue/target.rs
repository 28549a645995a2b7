//! The target of a lane for a latency objective, and whether a task can still be in time. `headrace_batching.latency`
//! sets the target several times per second, and its `target.py` has the same rules.

/// How a lane forms its batches, and which tasks it accepts. Times are in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub wait: f64,
    pub size: usize,
    /// The time from a task's arrival within which its run must begin.
    pub start_within: f64,
    pub run_one: f64,
    pub run_full: f64,
}

impl Target {
    /// The expected duration of a batch, interpolated linearly between that of one row and that of a full batch.
    pub fn run_of(&self, rows: usize) -> f64 {
        if self.size <= 1 {
            return self.run_full * rows as f64;
        }
        let part = (rows as f64 - 1.0) / (self.size as f64 - 1.0);
        self.run_one + (self.run_full - self.run_one) * part
    }
}

/// When the running batches of one lane are expected to end.
pub struct Slots {
    most: usize,
    /// The expected ends, the earliest first.
    ends: Vec<f64>,
}

impl Slots {
    pub fn new(most: usize) -> Self {
        Self { most: most.max(1), ends: Vec::new() }
    }

    pub fn begin(&mut self, now: f64, seconds: f64) {
        let end = now + seconds;
        self.ends.insert(self.ends.partition_point(|other| *other <= end), end);
    }

    /// Records that a batch has ended: removes the one that was expected to end first.
    pub fn end(&mut self) {
        if !self.ends.is_empty() {
            self.ends.remove(0);
        }
    }

    /// Whether a task that arrives now, behind this many waiting rows, would be answered in time.
    pub fn makes_it(&self, target: &Target, now: f64, waiting: usize, rows: usize) -> bool {
        let batches = if waiting == 0 { 0 } else { (waiting + rows - 1) / target.size };
        self.start_of(now, batches, target.run_full) <= now + target.start_within
    }

    /// When a batch behind `batches` full ones is expected to begin; `now` if a thread is idle for it.
    fn start_of(&self, now: f64, batches: usize, run_full: f64) -> f64 {
        let (rounds, place) = (batches / self.most, batches % self.most);
        let idle = self.most.saturating_sub(self.ends.len());
        let free = place.checked_sub(idle).and_then(|busy| self.ends.get(busy)).copied().unwrap_or(now);
        free.max(now) + rounds as f64 * run_full
    }
}

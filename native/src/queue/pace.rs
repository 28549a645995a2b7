//! How long the runs of one lane take, which decides whether waking a thread for the next one is worthwhile.

/// The limits of a fast run, in seconds, and how quickly a lane gains and loses trust. A lane without bounds never
/// counts as fast.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub quick: f64,
    pub slow: f64,
    pub most: usize,
    pub enough: usize,
    pub lost: usize,
}

/// The factor by which the recorded shortest duration grows with each further run, so that a single short run is
/// forgotten in time.
const FORGET: f64 = 1.02;

/// The longest duration of a run that counts as brief, as a fraction of the longest one of a run that counts as fast.
const BRIEF: f64 = 0.2;

/// How long the runs of one lane take. Sizes are in bytes of input. They are needed because a fast run of a small batch
/// says nothing about a larger batch. Runs that overlap count as one run, from the first beginning to the last end,
/// with the size of the largest.
pub struct Pace {
    bounds: Option<Bounds>,
    pub running: usize,
    began: f64,
    /// The size of the largest run since `began`.
    size: usize,
    /// The number of runs in the longest turn since `began`.
    runs: usize,
    trust: usize,
    /// The size of the largest run that was fast.
    most: usize,
    /// The shortest recent duration of a single run; 0 before the first.
    each: f64,
    /// The size of the largest task whose run, timed individually, was brief.
    briefest: usize,
}

impl Pace {
    pub fn new(bounds: Option<Bounds>) -> Self {
        Self { bounds, running: 0, began: 0.0, size: 0, runs: 0, trust: 0, most: 0, each: 0.0, briefest: 0 }
    }

    pub fn quick(&self, size: usize) -> bool {
        self.bounds.is_some_and(|bounds| self.trust >= bounds.enough) && size <= self.most
    }

    /// Records the run of a task that runs alone: its duration, and the size of the task.
    ///
    /// The shortest recent duration counts, since in longer runs the thread had to wait.
    pub fn ran(&mut self, seconds: f64, size: usize) {
        self.each = if self.each == 0.0 { seconds } else { seconds.min(self.each * FORGET) };
        if self.bounds.is_some_and(|bounds| seconds <= bounds.quick * BRIEF) {
            self.briefest = self.briefest.max(size);
        }
    }

    /// Whether runs of tasks of this size are so short that two at the same time would mostly wait for the interpreter.
    pub fn brief(&self, size: usize) -> bool {
        let is_brief = |bounds: Bounds| self.each > 0.0 && self.each <= bounds.quick * BRIEF;
        self.bounds.is_some_and(is_brief) && size <= self.briefest
    }

    /// Whether a turn of brief runs is under way. Another turn would only contend with it.
    pub fn is_briefly_busy(&self) -> bool {
        self.running > 0 && self.brief(self.size)
    }

    /// Records that a turn begins: `runs` runs, one after the other, of which the largest has this size.
    pub fn begin(&mut self, now: f64, size: usize, runs: usize) {
        if self.running == 0 {
            (self.began, self.size, self.runs) = (now, 0, 0);
        }
        self.runs = self.runs.max(runs);
        self.size = self.size.max(size);
        self.running += 1;
    }

    pub fn end(&mut self, now: f64) {
        self.running -= 1;
        if self.running > 0 {
            return;
        }
        let Some(bounds) = self.bounds else { return };
        let ran = (now - self.began) / self.runs as f64;
        if ran <= bounds.quick {
            self.trust = bounds.most.min(self.trust + 1);
            self.most = self.most.max(self.size);
        } else if self.size <= self.most {
            self.trust = if ran <= bounds.slow { self.trust.saturating_sub(bounds.lost) } else { 0 };
            self.most = if self.trust > 0 { self.most } else { 0 };
        }
    }
}

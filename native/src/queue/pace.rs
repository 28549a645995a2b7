//! How long the runs of one lane take: whether the next one is worth the call of a thread.

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
pub struct Pace {
    bounds: Option<Bounds>,
    pub running: usize,
    began: f64,
    size: usize,
    trust: usize,
    most: usize,
}

impl Pace {
    pub fn new(bounds: Option<Bounds>) -> Self {
        Self { bounds, running: 0, began: 0.0, size: 0, trust: 0, most: 0 }
    }

    pub fn quick(&self, size: usize) -> bool {
        self.trust >= ENOUGH_TRUST && size <= self.most
    }

    pub fn begin(&mut self, now: f64, size: usize) {
        if self.running == 0 {
            (self.began, self.size) = (now, 0);
        }
        self.size = self.size.max(size);
        self.running += 1;
    }

    pub fn end(&mut self, now: f64) {
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

//! How long the runs of one lane take: whether the next one is worth the call of a thread.

/// What makes runs quick, and how fast a lane earns and loses trust; a lane without them is never quick. Seconds.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub quick: f64,
    pub slow: f64,
    pub most: usize,
    pub enough: usize,
    pub lost: usize,
}

/// How long the runs of one lane take. A size is in bytes of input and only used for comparison: that a small batch was
/// quick says nothing about a larger one. Runs that overlap count as one, as long as all of them and as large as the
/// largest.
pub struct Pace {
    bounds: Option<Bounds>,
    pub running: usize,
    began: f64,
    /// Of the largest run since then.
    size: usize,
    trust: usize,
    /// The size of the largest run that was quick.
    most: usize,
}

impl Pace {
    pub fn new(bounds: Option<Bounds>) -> Self {
        Self { bounds, running: 0, began: 0.0, size: 0, trust: 0, most: 0 }
    }

    pub fn quick(&self, size: usize) -> bool {
        self.bounds.is_some_and(|bounds| self.trust >= bounds.enough) && size <= self.most
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
            self.trust = bounds.most.min(self.trust + 1);
            self.most = self.most.max(self.size);
        } else if self.size <= self.most {
            self.trust = if ran <= bounds.slow { self.trust.saturating_sub(bounds.lost) } else { 0 };
            self.most = if self.trust > 0 { self.most } else { 0 };
        }
    }
}

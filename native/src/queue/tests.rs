//! Tests which tasks run on the thread that received them: those for which this is faster than waking another thread.

use super::*;

pub const QUICK: f64 = 0.0002;
const SLOW: f64 = 0.002;
pub const BOUNDS: Bounds = Bounds { quick: QUICK, slow: SLOW, most: 16, enough: 8, lost: 4 };
const RUNS: [f64; 8] = [QUICK / 2.0; 8];

/// A task whose client waits until the test sets `gone`.
#[derive(Default)]
pub struct Patient {
    pub gone: bool,
    pub alone: bool,
    pub needs_python: bool,
}

impl Waits for Patient {
    type Abandoned = ();

    fn gone(&mut self) -> bool {
        self.gone
    }

    fn abandon(&mut self, late: bool) -> Option<()> {
        (late || self.gone).then_some(())
    }

    fn needs_python(&self) -> bool {
        self.needs_python
    }

    fn in_series(&self) -> bool {
        !self.alone
    }

    fn share(&self) -> Option<Self> {
        None
    }
}

pub struct Bench {
    pub queue: Queue<Patient>,
    pub now: f64,
}

impl Bench {
    pub fn new() -> Self {
        Self { queue: Queue::new(), now: 100.0 }
    }

    pub fn rules() -> Rules {
        Rules {
            execution_limit: 1000,
            enqueued_limit: 10,
            timeout: 0.0,
            splitting: false,
            running_limit: usize::MAX,
            slots: 2,
            max_batch_bytes: usize::MAX,
            one_by_one: false,
        }
    }

    fn steady(&self) -> LaneId {
        self.queue.open_lane(Self::rules(), Some(BOUNDS))
    }

    pub fn put(&self, lane: LaneId, rows: usize) {
        self.put_until(lane, rows, None);
    }

    fn put_until(&self, lane: LaneId, rows: usize, deadline: Option<f64>) {
        let entry = Entry::new(Patient::default(), rows, 0, deadline, 0);
        assert!(self.queue.put(lane, Key::Any, entry, self.now).is_ok());
    }

    /// Takes the batch that is due, as a batch thread does; returns its rows.
    pub fn batch(&self) -> Option<usize> {
        rows(&self.queue.turn(self.now))
    }

    /// Takes the single task, as a connection thread does; returns its rows.
    fn lone(&self) -> Option<usize> {
        self.brief(1)
    }

    /// Takes all tasks, at most `most` of them, as a connection thread does; returns their rows.
    fn brief(&self, most: usize) -> Option<usize> {
        self.queue.take_brief(self.now, most).and_then(|turn| rows(&turn))
    }

    pub fn finish(&mut self, lane: LaneId, after: f64) {
        self.now += after;
        self.queue.finish(lane, self.now);
    }

    /// Runs one batch after the other, each for this long.
    fn run(&mut self, lane: LaneId, seconds: &[f64], rows: usize) {
        for ran in seconds {
            self.put(lane, rows);
            assert_eq!(self.batch(), Some(rows));
            self.finish(lane, *ran);
        }
    }
}

fn rows(turn: &Turn<Patient>) -> Option<usize> {
    turn.lane.map(|_| turn.pieces.iter().map(|piece| piece.stop - piece.start).sum())
}

#[test]
fn of_a_lane_that_has_been_quick() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 3);
    assert_eq!(bench.lone(), None, "there is none");
    bench.put(lane, 3);

    assert_eq!(bench.lone(), Some(3));
    assert!(!bench.queue.lane_state(lane).idle);
    bench.finish(lane, 0.0);
    assert!(bench.queue.lane_state(lane).idle);
}

#[test]
fn not_of_a_lane_that_has_not_been_quick_for_long() {
    for (runs, more) in [(7, &[][..]), (8, &[QUICK * 1.01]), (16, &[SLOW * 1.01]), (7, &[1.0])] {
        let mut bench = Bench::new();
        let lane = bench.steady();
        bench.run(lane, &[QUICK / 2.0; 16][..runs], 1);
        bench.run(lane, more, 1);
        bench.put(lane, 1);

        assert_eq!(bench.lone(), None, "{runs} quick runs, then {more:?}");
        assert_eq!(bench.batch(), Some(1));
    }
}

#[test]
fn of_a_lane_that_was_interrupted_once() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &[QUICK / 2.0; 16], 1);
    bench.run(lane, &[QUICK * 1.01], 1);
    bench.put(lane, 1);

    assert_eq!(bench.lone(), Some(1));
}

#[test]
fn not_larger_than_tasks_that_have_been_quick() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 2);
    bench.put(lane, 3);
    assert_eq!(bench.lone(), None);
    assert_eq!(bench.batch(), Some(3));
    bench.finish(lane, QUICK / 2.0);
    bench.put(lane, 3);

    assert_eq!(bench.lone(), Some(3), "enough runs have been fast by now");
}

#[test]
fn of_a_lane_whose_larger_ones_are_slow() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 1);
    bench.run(lane, &[SLOW * 1.01], 2);
    bench.put(lane, 1);

    assert_eq!(bench.lone(), Some(1));
}

#[test]
fn not_of_a_lane_that_may_wait_for_something() {
    let mut bench = Bench::new();
    let lane = bench.queue.open_lane(Bench::rules(), None);
    bench.run(lane, &RUNS, 1);
    bench.put(lane, 1);

    assert_eq!(bench.lone(), None);
}

#[test]
fn not_beside_another() {
    let mut bench = Bench::new();
    let (lane, other) = (bench.steady(), bench.steady());
    bench.run(lane, &RUNS, 1);
    bench.put(lane, 1);
    bench.put(lane, 1);
    assert_eq!(bench.lone(), None);
    assert_eq!(bench.batch(), Some(2));
    bench.finish(lane, QUICK / 2.0);
    bench.put(lane, 1);
    bench.put(other, 1);

    assert_eq!(bench.lone(), None, "two tasks wait, in two lanes");
}

#[test]
fn not_while_a_batch_runs() {
    let mut bench = Bench::new();
    let (lane, other) = (bench.steady(), bench.steady());
    bench.run(lane, &RUNS, 1);
    bench.put(other, 1);
    assert_eq!(bench.batch(), Some(1));
    bench.put(lane, 1);

    assert_eq!(bench.lone(), None);
    bench.finish(other, 0.0);
    assert_eq!(bench.lone(), Some(1));
}

#[test]
fn not_before_its_batch_is_due() {
    let mut bench = Bench::new();
    let lane = bench.queue.open_lane(Rules { execution_limit: 2, timeout: 0.001, ..Bench::rules() }, Some(BOUNDS));
    bench.run(lane, &RUNS, 2);
    bench.put(lane, 1);

    assert_eq!(bench.lone(), None);
    bench.now += 0.001;
    assert_eq!(bench.lone(), Some(1));
}

#[test]
fn several_that_have_been_quick_together() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 5);
    [2, 1, 1].into_iter().for_each(|rows| bench.put(lane, rows));
    assert_eq!(bench.brief(2), None, "there are three");
    assert_eq!(bench.brief(3), Some(4));
    bench.finish(lane, QUICK / 2.0);
    [3, 3].into_iter().for_each(|rows| bench.put(lane, rows));

    assert_eq!(bench.brief(3), None, "six rows have not been quick");
}

#[test]
fn not_more_than_one_batch() {
    let mut bench = Bench::new();
    let lane = bench.queue.open_lane(Rules { execution_limit: 4, ..Bench::rules() }, Some(BOUNDS));
    bench.run(lane, &RUNS, 4);
    [2, 2, 1].into_iter().for_each(|rows| bench.put(lane, rows));

    assert_eq!(bench.brief(9), None);
    assert_eq!(bench.batch(), Some(4));
    bench.finish(lane, QUICK / 2.0);
    assert_eq!(bench.brief(9), Some(1));
}

#[test]
fn not_several_that_run_one_by_one() {
    let mut bench = Bench::new();
    let rules = Rules { execution_limit: 1, enqueued_limit: 10, one_by_one: true, ..Bench::rules() };
    let lane = bench.queue.open_lane(rules, Some(BOUNDS));
    bench.run(lane, &RUNS, 1);
    bench.put(lane, 1);
    bench.put(lane, 1);

    assert_eq!(bench.brief(9), None);
}

#[test]
fn not_after_its_deadline() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 1);
    bench.put_until(lane, 1, Some(bench.now));

    let turn = bench.queue.take_brief(bench.now, 1).expect("the expired task is returned");
    assert_eq!((rows(&turn), turn.expired.len()), (None, 1));
}

#[test]
fn runs_that_overlap_count_as_one() {
    let mut bench = Bench::new();
    let lane = bench.steady();
    bench.run(lane, &RUNS, 1);
    bench.put(lane, 1);
    assert_eq!(bench.batch(), Some(1));
    bench.put(lane, 1);
    bench.now += 0.75 * QUICK;
    assert_eq!(bench.batch(), Some(1));
    bench.finish(lane, 0.0);
    bench.finish(lane, 0.75 * QUICK);
    bench.put(lane, 1);

    assert_eq!(bench.lone(), None);
}

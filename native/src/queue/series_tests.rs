//! Tests which tasks leave together if they run one by one: those with brief runs, and no others.

use super::tests::{BOUNDS, Bench, Patient, QUICK};
use super::*;

const BRIEF: f64 = QUICK / 10.0;

fn one_by_one(bench: &Bench, bounds: Option<Bounds>) -> LaneId {
    bench.queue.open_lane(
        Rules { execution_limit: 1, enqueued_limit: 1000, one_by_one: true, running_limit: 4, ..Bench::rules() },
        bounds,
    )
}

fn put(bench: &Bench, lane: LaneId, tasks: impl IntoIterator<Item = (Patient, usize)>) {
    for (task, size) in tasks {
        assert!(bench.queue.put(lane, Key::Any, Entry::new(task, 1, size, None, 0), bench.now).is_ok());
    }
}

fn many(count: usize) -> impl Iterator<Item = (Patient, usize)> {
    (0..count).map(|_| (Patient::default(), 1))
}

#[test]
fn tasks_with_brief_runs_leave_together_and_one_turn_at_a_time() {
    let mut bench = Bench::new();
    let lane = one_by_one(&bench, Some(BOUNDS));
    put(&bench, lane, many(20));
    assert_eq!(bench.batch(), Some(1), "nothing is known of their runs yet");
    bench.queue.ran(lane, BRIEF, 1);
    bench.finish(lane, BRIEF);
    assert_eq!(bench.batch(), Some(16));
    assert_eq!(bench.batch(), None, "another turn would wait for the interpreter");
    bench.finish(lane, 16.0 * BRIEF);
    assert_eq!(bench.batch(), Some(3));
}

#[test]
fn tasks_with_long_runs_leave_alone_and_run_side_by_side() {
    for (bounds, seconds) in [(Some(BOUNDS), QUICK), (None, BRIEF)] {
        let bench = Bench::new();
        let lane = one_by_one(&bench, bounds);
        bench.queue.ran(lane, seconds, 1);
        put(&bench, lane, many(3));
        assert_eq!([bench.batch(), bench.batch(), bench.batch()], [Some(1); 3]);
    }
}

#[test]
fn a_connection_thread_takes_several_brief_tasks_if_they_need_no_interpreter() {
    let mut bench = Bench::new();
    let lane = one_by_one(&bench, Some(BOUNDS));
    bench.queue.detach(lane);
    for _ in 0..8 {
        bench.queue.ran(lane, BRIEF, 1);
        put(&bench, lane, many(1));
        assert_eq!(bench.batch(), Some(1));
        bench.finish(lane, BRIEF);
    }
    put(&bench, lane, many(3));
    assert!(bench.queue.take_brief_detached(bench.now, 2).is_none());
    assert_eq!(bench.queue.take_brief_detached(bench.now, 3).map(|turn| turn.pieces.len()), Some(3));
    bench.finish(lane, 3.0 * BRIEF);
    put(&bench, lane, many(2).chain([(Patient { needs_python: true, ..Patient::default() }, 1)]));
    assert!(bench.queue.take_brief(bench.now, 3).is_none(), "Python would run all of them");
}

#[test]
fn a_larger_task_leaves_alone() {
    let bench = Bench::new();
    let lane = one_by_one(&bench, Some(BOUNDS));
    bench.queue.ran(lane, BRIEF, 1);
    put(&bench, lane, many(2).chain([(Patient::default(), 1000)]).chain(many(2)));
    assert_eq!(bench.batch(), Some(2));
    assert_eq!(bench.batch(), None);
    bench.queue.finish(lane, bench.now);
    assert_eq!([bench.batch(), bench.batch()], [Some(1), Some(2)], "the others can still leave");
}

#[test]
fn a_task_from_python_leaves_alone() {
    let bench = Bench::new();
    let lane = one_by_one(&bench, Some(BOUNDS));
    bench.queue.ran(lane, BRIEF, 1);
    put(&bench, lane, many(2).chain([(Patient { alone: true, ..Patient::default() }, 1)]).chain(many(1)));
    for expected in [2, 1, 1] {
        assert_eq!(bench.batch(), Some(expected));
        bench.queue.finish(lane, bench.now);
    }
}

#[test]
fn an_interrupted_run_does_not_make_runs_count_as_long() {
    let bench = Bench::new();
    let lane = one_by_one(&bench, Some(BOUNDS));
    bench.queue.ran(lane, BRIEF, 1);
    bench.queue.ran(lane, 100.0 * QUICK, 1);
    put(&bench, lane, many(4));
    assert_eq!(bench.batch(), Some(4));
}

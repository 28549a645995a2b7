//! Tests which batches may be taken without the interpreter lock: those of lanes that run without the interpreter,
//! unless one of their tasks came from Python.

use super::tests::{BOUNDS, Bench, Patient, QUICK};
use super::*;

fn put(bench: &Bench, lane: LaneId, needs_python: bool) {
    let task = Patient { needs_python, ..Patient::default() };
    assert!(bench.queue.put(lane, Key::Any, Entry::new(task, 1, 1, None, 0), bench.now).is_ok());
}

fn lane(bench: &Bench) -> LaneId {
    bench.queue.open_lane(Bench::rules(), Some(BOUNDS))
}

fn taken(turn: Option<Turn<Patient>>) -> Option<usize> {
    turn.map(|turn| turn.pieces.len())
}

fn looked(bench: &Bench, now: f64) -> Option<usize> {
    match bench.queue.turn_detached(now) {
        Detached::Turn(turn) => Some(turn.pieces.len()),
        Detached::Nothing | Detached::NeedsPython => None,
    }
}

#[test]
fn only_a_detached_lane_gives_batches_to_a_thread_without_the_interpreter() {
    let bench = Bench::new();
    let lane = lane(&bench);
    put(&bench, lane, false);
    assert_eq!(looked(&bench, bench.now), None);
    bench.queue.detach(lane);
    assert_eq!(looked(&bench, bench.now), Some(1));
}

#[test]
fn a_batch_with_a_task_from_python_stays_in_the_queue() {
    let bench = Bench::new();
    let lane = lane(&bench);
    bench.queue.detach(lane);
    put(&bench, lane, false);
    put(&bench, lane, true);
    assert_eq!(looked(&bench, bench.now), None);
    assert_eq!(bench.batch(), Some(2));
}

#[test]
fn batches_need_no_python_once_the_tasks_from_python_have_left_the_group() {
    let bench = Bench::new();
    let lane = bench.queue.open_lane(Rules { execution_limit: 2, ..Bench::rules() }, None);
    bench.queue.detach(lane);
    for needs_python in [false, true, false, false] {
        put(&bench, lane, needs_python);
    }
    assert_eq!(looked(&bench, bench.now), None);
    assert_eq!(bench.batch(), Some(2));
    assert_eq!(looked(&bench, bench.now), Some(2));
}

#[test]
fn a_thread_without_the_interpreter_waits_for_it_only_for_a_batch_that_needs_it() {
    let bench = Bench::new();
    let lane = lane(&bench);
    bench.queue.detach(lane);
    assert!(matches!(bench.queue.turn_detached(bench.now), Detached::Nothing));
    put(&bench, lane, true);
    assert!(matches!(bench.queue.turn_detached(bench.now), Detached::NeedsPython));
}

#[test]
fn a_batch_that_is_not_due_is_not_taken() {
    let bench = Bench::new();
    let lane = bench.queue.open_lane(Rules { timeout: 1.0, ..Bench::rules() }, None);
    bench.queue.detach(lane);
    put(&bench, lane, false);
    assert_eq!(looked(&bench, bench.now), None);
    assert_eq!(looked(&bench, bench.now + 1.0), Some(1));
}

#[test]
fn a_connection_thread_takes_a_brief_batch_without_the_interpreter() {
    let mut bench = Bench::new();
    let lane = lane(&bench);
    for _ in 0..8 {
        put(&bench, lane, false);
        assert_eq!(bench.batch(), Some(1));
        bench.finish(lane, QUICK / 2.0);
    }
    put(&bench, lane, false);
    assert_eq!(taken(bench.queue.take_brief_detached(bench.now, 1)), None);
    bench.queue.detach(lane);
    assert_eq!(taken(bench.queue.take_brief_detached(bench.now, 1)), Some(1));
}

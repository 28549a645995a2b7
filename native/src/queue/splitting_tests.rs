//! Tests what happens to tasks that must run as a whole in a lane that splits tasks.

use super::tests::Bench;
use super::*;

fn splitting(bench: &Bench) -> LaneId {
    let rules = Rules { execution_limit: 8, splitting: true, ..Bench::rules() };
    bench.queue.open_lane(rules, None)
}

#[test]
fn a_task_that_does_not_fit_waits_for_the_next_batch() {
    let bench = Bench::new();
    let lane = splitting(&bench);
    [5, 5, 3, 8, 1].into_iter().for_each(|rows| bench.put(lane, rows));
    assert_eq!([bench.batch(), bench.batch(), bench.batch()], [Some(5), Some(8), Some(8)]);
    assert_eq!([bench.batch(), bench.batch()], [Some(1), None]);
}

#[test]
fn a_task_larger_than_the_batches_of_an_objective_is_a_batch() {
    let bench = Bench::new();
    let lane = splitting(&bench);
    bench.queue.steer(lane, Target { wait: 0.0, size: 4, start_within: 1e9, run_one: 0.0, run_full: 0.0 });
    [6, 1].into_iter().for_each(|rows| bench.put(lane, rows));
    assert_eq!([bench.batch(), bench.batch(), bench.batch()], [Some(6), Some(1), None]);
}

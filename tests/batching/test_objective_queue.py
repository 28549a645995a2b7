"""Queues with a latency objective: how long batches wait, how large they are, and which tasks are refused."""

from math import inf
from typing import Any

import pytest

from headrace_batching import Closed, ObjectiveMissed, Options, QueueFull, Target
from tests.batching.test_queue import KINDS, Bench, nothing

OBJECTIVE = "p99 20ms"


@pytest.fixture(params=KINDS)
def bench(request: pytest.FixtureRequest) -> Bench:
    module = pytest.importorskip(request.param)
    return Bench(module.Queue)


def lane_of(bench: Bench, target: Target, **values: Any) -> Any:
    lane = bench.queue.lane(Options(latency_objective=OBJECTIVE, **{"num_batch_threads": 1, **values}), nothing)
    lane.steer(target)
    return lane


def test_a_batch_waits_as_long_as_the_target_says(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.5, size=8), batch_timeout_micros=0)
    bench.put(lane, 1)

    assert bench.batch(after=0.4) is None
    assert bench.batch(after=0.2) is not None


def test_a_full_batch_does_not_wait(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.5, size=2))
    tasks = [bench.put(lane, 1) for _ in range(3)]

    assert bench.batch() == tasks[:2]
    assert bench.batch() is None


def test_a_new_target_applies_to_waiting_tasks(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.5, size=8))
    task = bench.put(lane, 1)
    lane.steer(Target(wait=0.1, size=8))

    assert bench.batch(after=0.2) == [task]


def test_a_task_larger_than_the_target_runs_alone(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.0, size=4), max_batch_size=16)
    before, large, after = (bench.put(lane, rows) for rows in (2, 9, 1))

    assert [bench.batch(), bench.batch(), bench.batch()] == [[before], [large], [after]]


def test_a_large_task_is_split_into_batches_of_the_target(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.0, size=4), max_batch_size=16, enable_large_batch_splitting=True)
    bench.put(lane, 9)

    assert [turn.formed.batch.rows if (turn := bench.turn()).formed else 0 for _ in range(4)] == [4, 4, 1, 0]


def test_a_larger_target_does_not_lift_the_limits_of_the_options(bench: Bench) -> None:
    lane = lane_of(bench, Target(wait=0.0, size=64), max_batch_size=2, max_enqueued_batches=1)
    bench.put(lane, 2)

    with pytest.raises(QueueFull, match="1 batches enqueued"):
        bench.put(lane, 1)
    assert len(bench.batch() or ()) == 1


RUN = Target(wait=0.0, size=4, start_within=0.015, run_one=0.004, run_full=0.010)
"""Runs of 10 ms; a run may begin at most 15 ms after its task arrived."""


def test_a_task_is_refused_when_no_thread_is_free_in_time(bench: Bench) -> None:
    lane = lane_of(bench, RUN)
    bench.put(lane, 4)
    assert bench.batch()  # this run ends at 10 ms
    for _ in range(4):  # the next batch runs from 10 to 20 ms
        bench.put(lane, 1)

    with pytest.raises(ObjectiveMissed, match=f"too late for the latency objective {OBJECTIVE}"):
        bench.put(lane, 1)  # it could not begin before 20 ms
    assert lane.shed == 1
    bench.clock.now += 0.006
    bench.put(lane, 1)  # now it begins in 14 ms


def test_a_task_is_accepted_when_a_second_thread_is_free(bench: Bench) -> None:
    lane = lane_of(bench, RUN, num_batch_threads=2)
    for _ in range(2):
        bench.put(lane, 4)
        assert bench.batch()
    for _ in range(8):
        bench.put(lane, 1)

    with pytest.raises(ObjectiveMissed):
        bench.put(lane, 1)
    lane.finish()  # the run ends earlier than expected
    bench.put(lane, 1)


def test_a_task_is_always_accepted_while_a_thread_is_idle(bench: Bench) -> None:
    lane = lane_of(bench, RUN._replace(start_within=0.0))
    bench.put(lane, 4)
    assert bench.batch()
    with pytest.raises(ObjectiveMissed):
        bench.put(lane, 1)
    lane.finish()

    bench.put(lane, 1)
    assert bench.batch()


def test_nothing_is_refused_without_a_limit_on_the_start(bench: Bench) -> None:
    lane = lane_of(bench, RUN._replace(start_within=inf))
    for _ in range(30):
        bench.put(lane, 1)

    assert lane.shed == 0


def test_a_closed_lane_accepts_a_new_target(bench: Bench) -> None:
    lane = lane_of(bench, RUN)
    lane.close()
    lane.steer(RUN)

    with pytest.raises(Closed):
        bench.put(lane, 1)

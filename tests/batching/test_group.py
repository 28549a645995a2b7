"""Tasks with one shape key: how many may wait, and which of them leave together."""

import random
from typing import Any

import numpy as np
import pytest

from headrace_batching import Options, Priority, QueueFull, Task
from headrace_batching.group import MAX_BATCH_BYTES, Group


def a_task(rows: int, *, deadline: float | None = None, priority: Priority = Priority.NORMAL) -> Task:
    return Task({}, lambda _: None, rows=rows, deadline=deadline, priority=priority)


def a_group(**values: Any) -> Group:
    return Group("key", Options(**values))


def a_splitting_group(**values: Any) -> Group:
    return Group("key", Options(enable_large_batch_splitting=True, **values))


def filled(group: Group, *tasks: Task) -> Group:
    for task in tasks:
        group.add(task)
    return group


def batches_of(group: Group) -> list[list[int]]:
    """Takes batches until the group is empty; returns the rows of each piece of each batch."""
    batches = []
    while group:
        batches.append([piece.rows for piece in group.take(0.0)[0]])
    return batches


class Counted:
    """TF Serving's rule without splitting, if no thread takes batches: one open batch behind the closed ones."""

    def __init__(self, size: int, most: int) -> None:
        self.size = size
        self.most = max(1, most)
        self.batches = [0]

    def admits(self, rows: int) -> bool:
        if self.batches[-1] + rows <= self.size:
            self.batches[-1] += rows
            return True
        if len(self.batches) >= self.most:
            return False
        self.batches.append(rows)
        return True


def admitted(group: Group, rows: int) -> bool:
    try:
        group.add(a_task(rows))
    except QueueFull:
        return False
    return True


@pytest.mark.parametrize("seed", range(40))
def test_refuses_exactly_when_tf_serving_does(seed: int) -> None:
    chance = random.Random(seed)
    size, most = chance.randint(1, 9), chance.randint(0, 5)
    group, model = a_group(max_batch_size=size, max_enqueued_batches=most), Counted(size, most)

    arrivals = [chance.randint(1, size) for _ in range(60)]

    assert [admitted(group, rows) for rows in arrivals] == [model.admits(rows) for rows in arrivals]
    assert [sum(batch) for batch in batches_of(group)] == model.batches


def test_says_how_full_it_is() -> None:
    group = filled(a_group(max_batch_size=4, max_enqueued_batches=2), a_task(3), a_task(2))

    with pytest.raises(QueueFull) as refusal:
        group.add(a_task(3))

    assert str(refusal.value) == (
        "The batch scheduling queue to which this task was submitted is full; "
        "currently 2 batches enqueued and max_enqueued_batches is 2"
    )


def test_admits_what_fits_the_open_batch_after_a_refusal() -> None:
    group = filled(a_group(max_batch_size=4, max_enqueued_batches=2), a_task(3), a_task(2))
    with pytest.raises(QueueFull):
        group.add(a_task(3))

    group.add(a_task(2))

    assert batches_of(group) == [[3], [2, 2]]


def test_a_batch_taken_makes_room_for_another() -> None:
    group = filled(a_group(max_batch_size=4, max_enqueued_batches=2), a_task(3), a_task(3))
    assert not admitted(group, 3)

    group.take(0.0)

    assert admitted(group, 3)


def test_tasks_without_rows_are_bounded_too() -> None:
    group = a_group(max_batch_size=4, max_enqueued_batches=2)

    assert [admitted(group, 0) for _ in range(9)] == [True] * 8 + [False]
    assert batches_of(group) == [[0] * 4, [0] * 4]


def test_keeps_order_and_lets_no_task_overtake() -> None:
    group = filled(a_group(max_batch_size=4), a_task(3), a_task(2), a_task(1))

    assert batches_of(group) == [[3], [2, 1]]


def a_wide_task(row_bytes: int, rows: int = 1) -> Task:
    """A task whose input uses few bytes of memory but expands to many."""
    return Task({"x": np.broadcast_to(np.uint8(7), (rows, row_bytes))}, lambda _: None, rows=rows)


def test_a_joined_batch_has_no_more_bytes_than_it_may() -> None:
    third = MAX_BATCH_BYTES // 3
    group = filled(a_group(), *[a_wide_task(third) for _ in range(7)])

    assert batches_of(group) == [[1, 1, 1], [1, 1, 1], [1]]


def test_a_row_counts_with_the_largest_width_that_padding_can_give_it() -> None:
    group = filled(a_group(), a_wide_task(1), a_wide_task(1), a_wide_task(MAX_BATCH_BYTES // 2), a_wide_task(1))

    assert batches_of(group) == [[1, 1], [1, 1]]


def test_a_task_too_wide_to_share_a_batch_runs_alone() -> None:
    group = filled(a_group(), a_wide_task(MAX_BATCH_BYTES + 1), a_wide_task(1))

    assert batches_of(group) == [[1], [1]]


def test_is_full_once_the_next_task_did_not_fit() -> None:
    group = filled(a_group(max_batch_size=4), a_task(3))
    assert not group.full

    group.add(a_task(2))

    assert group.full


def test_splits_into_room_left_then_full_pieces_then_the_rest() -> None:
    group = filled(a_splitting_group(max_batch_size=16, max_execution_batch_size=4), a_task(3), a_task(10))

    assert batches_of(group) == [[3, 1], [4], [4], [1]]


def test_pieces_are_consecutive_rows_of_the_task() -> None:
    group = filled(a_splitting_group(max_batch_size=16, max_execution_batch_size=4), a_task(3), a_task(6))

    pieces = [piece for _ in range(3) for piece in group.take(0.0)[0]]

    assert [(piece.start, piece.stop, piece.whole) for piece in pieces] == [
        (0, 3, True),
        (0, 1, False),
        (1, 5, False),
        (5, 6, False),
    ]


def test_normal_tasks_go_first_and_low_ones_fill_up() -> None:
    low, normal = a_task(1, priority=Priority.LOW), a_task(2)
    group = filled(a_group(max_batch_size=4), low, normal, a_task(3, priority=Priority.LOW))

    pieces, _ = group.take(0.0)

    assert [piece.task for piece in pieces] == [normal, low]
    assert batches_of(group) == [[3]]


def test_a_low_task_does_not_overtake_a_normal_one_that_did_not_fit() -> None:
    group = filled(a_group(max_batch_size=4), a_task(1, priority=Priority.LOW), a_task(3), a_task(2))

    assert batches_of(group) == [[3], [2, 1]]


def test_waiting_low_tasks_do_not_count_against_normal_ones() -> None:
    group = filled(a_group(max_batch_size=4, max_enqueued_batches=3), a_task(1, priority=Priority.LOW))

    for _ in range(9):
        assert admitted(group, 4)
        assert [piece.rows for piece in group.take(0.0)[0]] == [4]

    assert group.rows == 1


def test_cancelled_and_expired_tasks_are_dropped_as_the_batch_forms() -> None:
    cancelled, expired, waiting = a_task(1), a_task(2, deadline=5.0), a_task(3, deadline=5.1)
    group = filled(a_group(max_batch_size=8), cancelled, expired, waiting)
    cancelled.cancel()

    pieces, dropped = group.take(5.0)

    assert [piece.task for piece in pieces] == [waiting]
    assert dropped == [cancelled, expired]
    assert group.rows == 0


def test_a_dropped_task_leaves_its_place_to_the_next() -> None:
    cancelled = a_task(3)
    group = filled(a_group(max_batch_size=4), a_task(1), cancelled, a_task(3))
    cancelled.cancel()

    assert batches_of(group) == [[1, 3]]


def test_the_rest_of_a_task_that_has_failed_is_dropped() -> None:
    task = a_task(9)
    group = filled(a_splitting_group(max_batch_size=16, max_execution_batch_size=4), task)
    group.take(0.0)
    task.error = ValueError("its first piece")

    assert group.take(0.0) == ([], [task])
    assert group.rows == 0


def test_is_due_when_the_oldest_has_waited_for_long_enough() -> None:
    first, second = a_task(1, priority=Priority.LOW), a_task(1)
    first.arrived, second.arrived = 3.0, 4.0

    group = filled(a_group(max_batch_size=8, batch_timeout_micros=500_000), first, second)

    assert group.due == 3.5


def test_is_due_at_once_while_it_closes() -> None:
    group = filled(a_group(max_batch_size=8, batch_timeout_micros=500_000), a_task(1))

    group.closing = True

    assert group.due <= 0.0

"""Every queue on a virtual clock: which batch a thread gets, and which tasks are refused."""

import importlib
import time
from collections.abc import Callable, Hashable, Sequence
from importlib.util import find_spec
from threading import Barrier, Event, Lock, Thread, get_ident
from typing import Any

import numpy as np
import pytest

from headrace_batching import BatchThreads, Closed, DeadlineExceeded, Options, Priority, QueueFull, Scheduler, Task
from headrace_batching.batch import Batch
from headrace_batching.group import MAX_BATCH_BYTES
from headrace_batching.queue import Turn
from headrace_batching.task import Arrays
from tests.support.calls import ANSWER_WITHIN
from tests.support.clock import Clock
from tests.support.running import eventually

MILLISECOND = 1000  # in microseconds


def nothing(_: Batch) -> None:
    """Executes a lane's batches in tests that do not look at them."""


def row(value: float) -> Arrays:
    return {"x": np.array([value], np.float32)}


class Bench:
    """A queue of one kind, its clock, and tasks that record how they ended."""

    def __init__(self, kind: Callable[..., Any]) -> None:
        self.clock = Clock()
        self.queue = kind(self.clock)
        self.ended: list[Task] = []

    def lane(self, **values: Any) -> Any:
        return self.queue.lane(Options(**values), nothing)

    def put(
        self,
        lane: Any,
        rows: int,
        *,
        key: Hashable = "key",
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> Task:
        task = Task({}, self.ended.extend, rows=rows, key=key, deadline=deadline, priority=priority)
        lane.put(task)
        return task

    def turn(self, after: float = 0.0) -> Turn:
        self.clock.now += after
        with self.queue.lock:
            turn: Turn = self.queue.turn(self.clock.now)
            return turn

    def batch(self, after: float = 0.0) -> list[Task] | None:
        formed = self.turn(after).formed
        return formed.batch.tasks if formed else None


KINDS = ["headrace_batching.queue", *(["headrace_native"] if find_spec("headrace_native") else [])]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Any:
    """Each kind of queue in turn: all must behave alike."""
    return importlib.import_module(request.param).Queue


@pytest.fixture
def bench(kind: Callable[..., Any]) -> Bench:
    return Bench(kind)


class TestWaiting:
    def test_an_empty_queue_has_no_batch(self, bench: Bench) -> None:
        assert bench.turn() == Turn(None, [], float("inf"))

    def test_without_a_delay_a_thread_takes_the_waiting_tasks(self, bench: Bench) -> None:
        lane = bench.lane()
        tasks = [bench.put(lane, 1), bench.put(lane, 2)]

        assert bench.batch() == tasks

    def test_a_batch_that_is_not_full_waits_for_more(self, bench: Bench) -> None:
        lane = bench.lane(batch_timeout_micros=2 * MILLISECOND)
        first = bench.put(lane, 1)

        turn = bench.turn(after=0.001)
        assert turn.formed is None
        assert turn.wake == pytest.approx(100.002)
        second = bench.put(lane, 1)

        assert bench.batch(after=0.0005) is None
        assert bench.batch(after=0.0006) == [first, second]

    def test_a_full_batch_leaves_at_once(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, batch_timeout_micros=2 * MILLISECOND)
        tasks = [bench.put(lane, 2), bench.put(lane, 2)]

        assert bench.batch() == tasks

    def test_a_joined_batch_has_no_more_bytes_than_it_may(self, bench: Bench) -> None:
        """This holds even if the tasks' inputs use few bytes of memory, because they are broadcast."""
        lane = bench.lane()
        row = np.broadcast_to(np.uint8(7), (1, MAX_BATCH_BYTES // 2))
        for _ in range(3):
            lane.put(Task({"x": row}, bench.ended.extend, rows=1, key="key"))

        assert [len(bench.batch() or []), len(bench.batch() or []), bench.batch()] == [2, 1, None]

    def test_a_batch_that_the_next_task_did_not_fit_leaves_at_once(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, batch_timeout_micros=2 * MILLISECOND)
        first, second = bench.put(lane, 3), bench.put(lane, 2)

        assert bench.batch() == [first]
        assert bench.batch() is None
        assert bench.batch(after=0.0021) == [second]

    def test_a_task_without_rows_does_not_wait_for_ever(self, bench: Bench) -> None:
        task = bench.put(bench.lane(), 0)

        assert bench.batch() == [task]


class TestOrder:
    def test_no_task_overtakes_another_to_fill_a_batch(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4)
        tasks = [bench.put(lane, rows) for rows in (3, 2, 1, 4)]

        assert [bench.batch() for _ in range(4)] == [tasks[:1], tasks[1:3], tasks[3:], None]

    def test_shapes_do_not_mix(self, bench: Bench) -> None:
        lane = bench.lane()
        wide, narrow, wider = bench.put(lane, 1, key="wide"), bench.put(lane, 1), bench.put(lane, 1, key="wide")

        assert bench.batch() == [wide, wider]
        assert bench.batch() == [narrow]

    def test_groups_take_turns(self, bench: Bench) -> None:
        busy, quiet = bench.lane(max_batch_size=1), bench.lane(max_batch_size=1)
        first, second, third = (bench.put(busy, 1) for _ in range(3))
        only = bench.put(quiet, 1)

        assert [bench.batch() for _ in range(4)] == [[first], [only], [second], [third]]

    def test_normal_before_low_over_all_lanes(self, bench: Bench) -> None:
        lane = bench.lane()
        low = bench.put(lane, 1, priority=Priority.LOW)
        normal = bench.put(bench.lane(), 1)

        assert bench.batch() == [normal]
        assert bench.batch() == [low]

    def test_a_batch_of_normal_is_filled_up_with_low(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=2)
        low = [bench.put(lane, 1, priority=Priority.LOW) for _ in range(2)]
        normal = bench.put(lane, 1)

        assert bench.batch() == [normal, low[0]]
        assert bench.batch() == [low[1]]

    def test_the_formed_batch_names_its_lane(self, bench: Bench) -> None:
        lane = bench.lane()
        bench.put(bench.lane(), 1)
        bench.put(lane, 1)
        bench.turn()

        formed = bench.turn().formed

        assert formed is not None
        assert formed.lane is lane


class TestBound:
    def test_a_task_that_would_open_one_batch_too_many_is_refused(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, max_enqueued_batches=2)
        bench.put(lane, 3)
        bench.put(lane, 3)

        with pytest.raises(QueueFull) as refusal:
            bench.put(lane, 2)

        assert str(refusal.value) == (
            "The batch scheduling queue to which this task was submitted is full; "
            "currently 2 batches enqueued and max_enqueued_batches is 2"
        )

    def test_a_refused_task_leaves_no_trace(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, max_enqueued_batches=1)
        first = bench.put(lane, 3)
        for key in ("key", "another"):
            with pytest.raises(QueueFull):
                bench.put(lane, 2, key=key)

        assert lane.rows == 3
        assert bench.batch() == [first]
        assert bench.batch() is None

    def test_all_groups_of_a_lane_share_one_bound(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, max_enqueued_batches=2)
        for key in range(8):
            bench.put(lane, 1, key=key)

        with pytest.raises(QueueFull, match="currently 2 batches enqueued and max_enqueued_batches is 2"):
            bench.put(lane, 1, key=8)

    def test_lanes_do_not_share_one(self, bench: Bench) -> None:
        full, other = (bench.lane(max_batch_size=1, max_enqueued_batches=1) for _ in range(2))
        bench.put(full, 1)

        bench.put(other, 1)

        assert other.rows == 1

    def test_a_batch_that_has_left_makes_room(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=4, max_enqueued_batches=1)
        bench.put(lane, 4)
        bench.batch()

        bench.put(lane, 4)

        assert lane.rows == 4


class TestSplitting:
    def lane(self, bench: Bench) -> Any:
        return bench.lane(
            enable_large_batch_splitting=True, max_batch_size=64, max_execution_batch_size=4, max_enqueued_batches=3
        )

    def test_a_task_is_handed_out_in_pieces(self, bench: Bench) -> None:
        lane = self.lane(bench)
        small, large = bench.put(lane, 3), bench.put(lane, 6)

        assert [bench.batch() for _ in range(4)] == [[small, large], [large], [large], None]

    @pytest.mark.parametrize(
        ("waiting", "rows", "numbers"),
        [
            ((), 13, (12, 1, 0)),
            ((3,), 10, (9, 1, 3)),
            ((4,), 9, (8, 1, 4)),
            ((3, 2), 8, (7, 2, 1)),
            ((6, 6), 1, (0, 3, 4)),
        ],
    )
    def test_reports_the_remaining_capacity(
        self, bench: Bench, waiting: Sequence[int], rows: int, numbers: tuple[int, int, int]
    ) -> None:
        lane = self.lane(bench)
        for earlier in waiting:
            bench.put(lane, earlier)

        with pytest.raises(QueueFull) as refusal:
            bench.put(lane, rows)

        capacity, batches, opened = numbers
        assert str(refusal.value) == (
            f"The batch scheduling queue to which this task was submitted is full; task size is {rows} but scheduling "
            f"capacity is only {capacity} (num_enqueued_batches={batches}, max_enqueued_batches=3, "
            f"open_batch_size={opened}, max_execution_batch_size=4)"
        )

    @pytest.mark.parametrize("waiting", [(), (3,), (3, 2)])
    def test_accepts_a_task_that_fits_exactly(self, bench: Bench, waiting: Sequence[int]) -> None:
        lane = self.lane(bench)
        for earlier in waiting:
            bench.put(lane, earlier)

        bench.put(lane, 12 - sum(waiting))

        assert lane.rows == 12


class TestDropping:
    def test_a_task_past_its_deadline_fails_and_never_runs(self, bench: Bench) -> None:
        lane = bench.lane()
        expired = bench.put(lane, 1, deadline=101.0)
        waiting = bench.put(lane, 1, deadline=101.1)

        turn = bench.turn(after=1.0)

        assert turn.formed is not None
        assert turn.formed.batch.tasks == [waiting]
        assert turn.expired == [expired]
        assert isinstance(expired.error, DeadlineExceeded)
        assert str(expired.error) == "Run() timeout exceeded while waiting in batching queue"

    def test_a_thread_reports_the_tasks_that_it_dropped(self, bench: Bench) -> None:
        lane = bench.lane()
        expired = bench.put(lane, 1, deadline=100.0)
        bench.put(lane, 1)

        bench.queue.take()

        assert bench.ended == [expired]

    def test_a_cancelled_task_is_not_reported(self, bench: Bench) -> None:
        lane = bench.lane()
        bench.put(lane, 1).cancel()
        waiting = bench.put(lane, 1)

        formed = bench.queue.take()

        assert formed is not None
        assert formed.batch.tasks == [waiting]
        assert bench.ended == []

    def test_a_group_whose_tasks_are_all_dropped_leaves_nothing(self, bench: Bench) -> None:
        lane = bench.lane()
        bench.put(lane, 3).cancel()

        assert bench.batch() is None
        assert lane.rows == 0
        assert lane.idle

    def test_a_task_that_has_been_taken_does_not_expire(self, bench: Bench) -> None:
        task = bench.put(bench.lane(), 1, deadline=101.0)
        bench.batch()

        bench.turn(after=2.0)

        assert task.error is None


class TestThreads:
    def test_the_one_that_fell_asleep_last_is_called_first(self, bench: Bench) -> None:
        def run(inputs: Arrays) -> Arrays:
            ran.append(get_ident())
            return inputs

        ran: list[int] = []
        threads = BatchThreads(4, bench.queue)
        threads.start()
        scheduler = Scheduler(threads, run, Options())
        for number in range(12):
            eventually(lambda: bench.queue.idle == 4)
            scheduler.call(row(number)).result(ANSWER_WITHIN)
        threads.close()

        assert len(set(ran)) == 1

    def test_a_thread_that_gets_another_batch_leaves_waiting_tasks_to_another_thread(
        self, kind: Callable[..., Any]
    ) -> None:
        def run(inputs: Arrays) -> Arrays:
            assert go_on.wait(ANSWER_WITHIN)
            return inputs

        go_on = Event()
        queue = kind()
        threads = BatchThreads(2, queue)
        threads.start()
        patient = Scheduler(threads, lambda inputs: inputs, Options(batch_timeout_micros=20 * MILLISECOND))
        busy = Scheduler(threads, run, Options())
        eventually(lambda: queue.idle == 2)
        waiting, running = patient.call(row(1)), busy.call(row(2))

        assert waiting.result(ANSWER_WITHIN)["x"] == [1]
        go_on.set()
        assert running.result(ANSWER_WITHIN)["x"] == [2]
        threads.close()

    def take(self, bench: Bench) -> tuple[Thread, list[Task]]:
        """Takes a batch on another thread; returns once that thread waits."""
        taken: list[Task] = []

        def run() -> None:
            formed = bench.queue.take()
            taken.extend(formed.batch.tasks if formed else [])

        thread = Thread(target=run, daemon=True)
        thread.start()
        while not bench.queue.idle:
            thread.join(0.001)
        return thread, taken

    @pytest.mark.parametrize("timeout", [0, 3_600_000_000, 2**63 - 1])
    def test_wait_until_a_batch_is_there(self, bench: Bench, timeout: int) -> None:
        lane = bench.lane(max_batch_size=2, batch_timeout_micros=timeout)
        tasks = [bench.put(lane, 1)] if timeout else []
        thread, taken = self.take(bench)

        tasks.append(bench.put(lane, 1))
        bench.queue.wake()

        thread.join(ANSWER_WITHIN)
        assert taken == tasks

    def test_are_to_be_called_for_a_new_group_and_for_a_full_batch(self, bench: Bench) -> None:
        lane = bench.lane(max_batch_size=2, batch_timeout_micros=3_600_000_000)
        wanted_with_none_idle = lane.put(Task({}, lambda _: None, rows=1, key="first"))
        thread, taken = self.take(bench)

        wanted = [lane.put(Task({}, lambda _: None, rows=1, key="second")) for _ in range(2)]
        more = Task({}, lambda _: None, rows=1, key="third"), Task({}, lambda _: None, rows=1, key="third")
        wanted.append(lane.put(more[0]))

        assert not wanted_with_none_idle
        assert wanted == [True, True, True]
        bench.queue.wake()
        thread.join(ANSWER_WITHIN)
        assert len(taken) == 2

    def test_wait_no_longer_than_the_oldest_task_may(self, kind: Callable[..., Any]) -> None:
        queue = kind()
        lane = queue.lane(Options(batch_timeout_micros=20 * MILLISECOND), nothing)
        task = Task({}, lambda _: None, rows=1)
        lane.put(task)

        began = time.monotonic()
        formed = queue.take()

        assert formed is not None
        assert formed.batch.tasks == [task]
        assert 0.015 < time.monotonic() - began < ANSWER_WITHIN


class TestRunning:
    """A lane may limit how many of its batches run at once."""

    def test_when_a_batch_has_ended_the_next_one_takes_all_tasks_that_wait_by_then(self, bench: Bench) -> None:
        lane = bench.lane(max_running_batches=2)
        running = [bench.put(lane, 1, key=key) for key in ("a", "b")]
        assert [bench.batch(), bench.batch()] == [[running[0]], [running[1]]]
        waiting = [bench.put(lane, 1), bench.put(lane, 2)]
        turn = bench.turn()
        assert (turn.formed, turn.wake) == (None, float("inf"))
        waiting.append(bench.put(lane, 3))

        lane.finish()

        assert bench.batch() == waiting

    def test_other_lanes_are_not_delayed(self, bench: Bench) -> None:
        lane, other = bench.lane(max_running_batches=1), bench.lane()
        first = bench.put(lane, 1)
        assert bench.batch() == [first]
        second, third = bench.put(lane, 1), bench.put(other, 1)

        assert [bench.batch(), bench.batch()] == [[third], None]
        lane.finish()
        assert bench.batch() == [second]

    def test_closing_runs_waiting_tasks_and_ends_every_thread(self, kind: Callable[..., Any]) -> None:
        queue = kind()
        most, now, runs = 0, 0, 0
        lock, pair = Lock(), Barrier(2, timeout=ANSWER_WITHIN)

        def execute(batch: Any) -> None:
            nonlocal most, now, runs
            with lock:
                now += 1
                most = max(most, now)
            pair.wait()  # waits until two run at once
            with lock:
                now -= 1
                runs += len(batch)
            batch.fail(ValueError("done"), queue.lock)

        threads = BatchThreads(4, queue)
        lane = queue.lane(Options(max_batch_size=1, max_enqueued_batches=40, max_running_batches=2), execute)
        for number in range(20):
            lane.put(Task({"x": np.zeros((1, 1))}, lambda _: None, rows=1, key=number))
        threads.start()
        threads.close()

        assert (most, runs) == (2, 20)


class TestClosing:
    def close_lane(self, lane: Any) -> Thread:
        """Closes a lane, which waits for its running batches; returns once the lane refuses new tasks."""
        closing = Thread(target=lane.close, daemon=True)
        closing.start()
        while not lane.closed:
            closing.join(0.001)
        return closing

    def test_a_closed_lane_refuses_tasks(self, bench: Bench) -> None:
        lane = bench.lane()
        lane.close()

        with pytest.raises(Closed, match="the scheduler is closed"):
            bench.put(lane, 1)

        bench.put(bench.lane(), 1)

    def test_waiting_tasks_of_a_closed_lane_leave_at_once(self, bench: Bench) -> None:
        slow = {"batch_timeout_micros": 1000 * MILLISECOND}
        lane, other = bench.lane(**slow), bench.lane(**slow)
        task = bench.put(lane, 1)
        bench.put(other, 1)

        closing = self.close_lane(lane)

        assert bench.batch() == [task]
        assert bench.batch() is None
        assert closing.is_alive()
        lane.finish()
        closing.join(ANSWER_WITHIN)
        assert not closing.is_alive()

    def test_a_lane_whose_tasks_are_all_dropped_ends(self, bench: Bench) -> None:
        lane = bench.lane()
        bench.put(lane, 1).cancel()

        closing = self.close_lane(lane)
        bench.turn()

        closing.join(ANSWER_WITHIN)
        assert not closing.is_alive()

    def test_a_closed_queue_hands_out_waiting_tasks_and_then_nothing(self, bench: Bench) -> None:
        lane = bench.lane(batch_timeout_micros=1000 * MILLISECOND)
        task = bench.put(lane, 1)

        bench.queue.close()

        with pytest.raises(Closed):
            bench.put(lane, 1)
        assert bench.batch() == [task]
        assert bench.queue.take() is None

    def test_an_empty_lane_can_close_after_the_queue(self, bench: Bench) -> None:
        lane = bench.lane()
        bench.queue.close()

        lane.close()

        assert lane.idle

"""The scheduler with real threads and a real function."""

import sys
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from threading import Barrier, Event, Lock, Thread
from threading import enumerate as all_threads
from typing import Any

import numpy as np
import pytest

from headrace_batching import (
    BatchOutputError,
    BatchReport,
    BatchThreads,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    Options,
    Priority,
    QueueFull,
    Scheduler,
    Task,
    TaskTooLarge,
)
from headrace_batching.batch import Batch
from headrace_batching.contract import Run
from headrace_batching.delivery import deliver_to_threads
from headrace_batching.task import Array, Arrays
from tests.support.running import eventually

WAIT = 60.0  # seconds after which a test gives up

StartThreads = Callable[[int], BatchThreads]


@pytest.fixture
def start_threads() -> Iterator[StartThreads]:
    started: list[BatchThreads] = []

    def start(count: int) -> BatchThreads:
        threads = BatchThreads(count)
        threads.start()
        started.append(threads)
        return threads

    yield start
    for threads in started:
        threads.close()


@pytest.fixture
def threads(start_threads: StartThreads) -> BatchThreads:
    return start_threads(1)


def row(*values: float) -> Arrays:
    return {"x": np.array(values, np.float32)}


def doubled(inputs: Arrays) -> Arrays:
    return {"y": inputs["x"] * 2}


def result(future: "Future[Arrays]") -> list[float]:
    outputs: list[float] = future.result(WAIT)["y"].tolist()
    return outputs


def wait_for(event: Event) -> None:
    assert event.wait(WAIT / 2)


class Gate:
    """A function whose first run blocks until the test releases it, so that other tasks wait in the queue."""

    def __init__(self, run: Run = doubled) -> None:
        self._run = run
        self._entered = Event()
        self._open = Event()
        self.runs: list[list[float]] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        if self._entered.is_set():
            self.runs.append(inputs["x"].tolist())
            return self._run(inputs)
        self._entered.set()
        assert self._open.wait(WAIT)
        return doubled(inputs)

    def occupy(self, scheduler: Scheduler) -> None:
        """Keeps one thread busy."""
        scheduler.call(row(0))
        assert self._entered.wait(WAIT)

    def let_go(self) -> None:
        self._open.set()


class TestAnswers:
    def test_are_those_of_the_function(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, doubled, Options())

        assert result(scheduler.call(row(1, 2))) == [2, 4]

    def test_requests_that_wait_run_together(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options())
        gate.occupy(scheduler)
        futures = [scheduler.call(row(1)), scheduler.call(row(2, 3)), scheduler.call(row(4))]
        gate.let_go()

        assert [result(future) for future in futures] == [[2], [4, 6], [8]]
        assert gate.runs == [[1, 2, 3, 4]]

    def test_normal_runs_before_low(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options(max_batch_size=1))
        gate.occupy(scheduler)
        futures = [scheduler.call(row(1), priority=Priority.LOW), scheduler.call(row(2))]
        gate.let_go()

        wait(futures, WAIT)
        assert gate.runs == [[2], [1]]

    def test_a_partial_batch_runs_after_its_timeout(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, doubled, Options(batch_timeout_micros=1000))

        assert result(scheduler.call(row(1))) == [2]

    def test_the_backend_chooses_how_the_joined_array_is_allocated(self, threads: BatchThreads) -> None:
        buffer = np.zeros(64, np.float32)
        seen: list[Array] = []

        def run(inputs: Arrays) -> Arrays:
            seen.append(inputs["x"])
            return doubled(inputs)

        gate = Gate(run)
        scheduler = Scheduler(threads, gate, Options(), empty=lambda shape, _: buffer[: shape[0]])
        gate.occupy(scheduler)
        futures = [scheduler.call(row(1)), scheduler.call(row(2))]
        gate.let_go()

        wait(futures, WAIT)
        assert np.shares_memory(seen[0], buffer)

    def test_without_a_batch_axis_requests_run_one_by_one_as_they_are(self, threads: BatchThreads) -> None:
        def total(inputs: Arrays) -> Arrays:
            return {"y": np.array(inputs["x"].sum())}

        gate = Gate(total)
        scheduler = Scheduler(threads, gate, Options(max_batch_size=1), batched=False)
        gate.occupy(scheduler)
        futures = [scheduler.call(row(1, 2)), scheduler.call({"x": np.array(5.0)})]
        gate.let_go()

        assert [future.result(WAIT)["y"] for future in futures] == [3, 5]


class TestRefusals:
    def test_a_task_larger_than_a_batch(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, doubled, Options(max_batch_size=2))

        with pytest.raises(TaskTooLarge) as refusal:
            scheduler.call(row(1, 2, 3))

        assert str(refusal.value) == "Task size 3 is larger than maximum input batch size 2"

    def test_splitting_does_not_make_a_task_smaller(self, threads: BatchThreads) -> None:
        options = Options(max_batch_size=4, max_execution_batch_size=2, enable_large_batch_splitting=True)

        with pytest.raises(TaskTooLarge, match="Task size 5 is larger than maximum input batch size 4"):
            Scheduler(threads, doubled, options).call(row(1, 2, 3, 4, 5))

    def test_inputs_without_common_rows(self, threads: BatchThreads) -> None:
        with pytest.raises(InvalidTask, match="at least one input tensor"):
            Scheduler(threads, doubled, Options()).call({})

    def test_a_full_queue(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options(max_batch_size=1, max_enqueued_batches=2))
        gate.occupy(scheduler)
        waiting = [scheduler.call(row(1)), scheduler.call(row(2))]

        with pytest.raises(QueueFull, match="currently 2 batches enqueued and max_enqueued_batches is 2"):
            scheduler.call(row(3))

        gate.let_go()
        assert [result(future) for future in waiting] == [[2], [4]]

    def test_a_task_past_its_deadline_never_reaches_the_function(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options())
        gate.occupy(scheduler)
        late, good = scheduler.call(row(1), timeout=0.0), scheduler.call(row(2), timeout=WAIT)
        gate.let_go()

        assert result(good) == [4]
        assert isinstance(late.exception(WAIT), DeadlineExceeded)
        assert gate.runs == [[2]]


class TestFailures:
    def run_batch(self, threads: BatchThreads, run: Run, *requests: Arrays) -> tuple[Gate, "list[Future[Arrays]]"]:
        """Runs the requests in one batch."""
        gate = Gate(run)
        scheduler = Scheduler(threads, gate, Options(max_batch_size=8))
        gate.occupy(scheduler)
        futures = [scheduler.call(request) for request in requests]
        gate.let_go()
        wait(futures, WAIT)
        return gate, futures

    def test_only_the_culprits_fail_each_with_its_own_error(self, threads: BatchThreads) -> None:
        def refuse_negatives(inputs: Arrays) -> Arrays:
            negatives = inputs["x"][inputs["x"] < 0]
            if negatives.size:
                msg = f"cannot run {negatives.tolist()}"
                raise ValueError(msg)
            return doubled(inputs)

        values = [1, 2, -3, 4, 5, 6, -7, 8]
        gate, futures = self.run_batch(threads, refuse_negatives, *(row(value) for value in values))

        errors = [str(future.exception()) for future in futures if future.exception()]
        assert errors == ["cannot run [-3.0]", "cannot run [-7.0]"]
        assert [result(f) for f in futures if not f.exception()] == [[2], [4], [8], [10], [12], [16]]
        assert [len(run) for run in gate.runs] == [8, 4, 2, 2, 1, 1, 4, 2, 2, 1, 1]

    def test_a_batch_that_fails_only_as_a_whole_fails_no_task(self, threads: BatchThreads) -> None:
        def refuse_many(inputs: Arrays) -> Arrays:
            if len(inputs["x"]) > 2:
                raise MemoryError
            return doubled(inputs)

        gate, futures = self.run_batch(threads, refuse_many, *(row(value) for value in range(4)))

        assert [result(future) for future in futures] == [[0], [2], [4], [6]]
        assert gate.runs == [[0, 1, 2, 3], [0, 1], [2, 3]]

    def test_the_arrays_of_a_failed_batch_are_freed_before_its_halves_run(self, threads: BatchThreads) -> None:
        alive: list[weakref.ref[Array]] = []
        runs: list[tuple[int, int]] = []  # the rows, and the joined arrays that something still references

        def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
            joined: Array = np.empty(shape, dtype)
            alive.append(weakref.ref(joined))
            return joined

        def run(inputs: Arrays) -> Arrays:
            x = inputs["x"]
            runs.append((len(x), sum(array() is not None for array in alive)))
            try:
                return doubled({"x": x / 0 if len(x) > 2 else x})
            except FloatingPointError as error:
                raise ValueError(f"{len(x)} rows") from error

        def strict(inputs: Arrays) -> Arrays:
            with np.errstate(all="raise"):
                return run(inputs)

        gate = Gate(strict)
        scheduler = Scheduler(threads, gate, Options(), empty=empty)
        gate.occupy(scheduler)
        futures = [scheduler.call(row(number)) for number in range(1, 9)]
        gate.let_go()

        assert [result(future) for future in futures] == [[2 * number] for number in range(1, 9)]
        assert runs == [(8, 1), (4, 1), (2, 1), (2, 1), (4, 1), (2, 1), (2, 1)]

    def test_outputs_with_other_numbers_of_rows_go_whole_to_tasks_that_run_alone(self, threads: BatchThreads) -> None:
        _, futures = self.run_batch(threads, lambda _: {"y": np.zeros(3)}, row(1), row(2), row(1, 2, 3))

        assert [result(future) for future in futures] == [[0, 0, 0]] * 3

    def test_outputs_with_other_numbers_of_rows_fail_a_padded_task(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(
            threads, lambda _: {"y": np.zeros(3)}, Options(max_batch_size=4, allowed_batch_sizes=(2, 4))
        )

        assert isinstance(scheduler.call(row(1)).exception(WAIT), BatchOutputError)

    def test_a_thread_survives_a_failing_function(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, lambda inputs: {"y": inputs["nothing"]}, Options())

        errors = [scheduler.call(row(1)).exception(WAIT) for _ in range(3)]

        assert [type(error) for error in errors] == [KeyError] * 3

    def test_a_thread_survives_a_function_that_raises_system_exit(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, lambda _: sys.exit("enough"), Options())

        errors = [scheduler.call(row(1)).exception(WAIT) for _ in range(2)]

        assert [str(error) for error in errors] == ["the model raised SystemExit('enough')"] * 2

    def test_a_thread_survives_a_delivery_that_fails(self, threads: BatchThreads) -> None:
        def fail(_: object) -> None:
            raise SystemExit("lost")

        scheduler = Scheduler(threads, doubled, Options())
        for _ in range(2):
            scheduler.submit(Task(row(1), fail, rows=1))

        assert result(scheduler.call(row(1))) == [2]

    def test_a_caller_in_a_thread_who_has_left_is_skipped(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options())
        gate.occupy(scheduler)
        left, waiting = scheduler.call(row(1)), scheduler.call(row(2))
        left.cancel()
        gate.let_go()

        assert result(waiting) == [4]

    def test_a_cancelled_task_never_reaches_the_function(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options())
        gate.occupy(scheduler)
        task = Task(row(1), lambda _: None, rows=1)
        scheduler.submit(task)
        task.cancel()
        waiting = scheduler.call(row(2))
        gate.let_go()

        assert result(waiting) == [4]
        assert gate.runs == [[2]]
        assert not task.ended

    def test_a_report_names_the_traced_tasks(self, threads: BatchThreads) -> None:
        gate = Gate()
        reports: list[BatchReport] = []
        scheduler = Scheduler(threads, gate, Options(), observe=reports.append)
        gate.occupy(scheduler)
        tasks = [Task(row(number), deliver_to_threads, rows=1) for number in range(3)]
        for task in tasks:
            task.future = Future[Arrays]()
            task.traced = task is tasks[1]
            scheduler.submit(task)
        gate.let_go()
        wait([task.future for task in tasks], WAIT)
        threads.close()  # a report is made after the answers are delivered

        assert [report.traced for report in reports] == [[], [tasks[1].arrived]]


class TestSplitting:
    OPTIONS = Options(max_batch_size=12, max_execution_batch_size=4, enable_large_batch_splitting=True)

    def test_outputs_come_back_in_order(self, start_threads: StartThreads) -> None:
        scheduler = Scheduler(start_threads(3), doubled, self.OPTIONS)

        assert result(scheduler.call(row(*range(11)))) == [2 * value for value in range(11)]

    def test_pieces_run_at_once_where_threads_are_free(self, start_threads: StartThreads) -> None:
        together = Barrier(3)

        def run(inputs: Arrays) -> Arrays:
            together.wait(WAIT)
            return doubled(inputs)

        scheduler = Scheduler(start_threads(3), run, self.OPTIONS)

        assert result(scheduler.call(row(*range(12)))) == [2 * value for value in range(12)]

    def test_a_piece_that_fails_fails_its_task_once(self, start_threads: StartThreads) -> None:
        together = Barrier(3)
        delivered: list[Task] = []

        def run(_: Arrays) -> Arrays:
            together.wait(WAIT)
            msg = "no"
            raise ValueError(msg)

        threads = start_threads(3)
        scheduler = Scheduler(threads, run, replace(self.OPTIONS, max_enqueued_batches=150))
        tasks = [Task(row(*range(12)), delivered.extend, rows=12) for _ in range(50)]
        for task in tasks:
            scheduler.submit(task)
        threads.close()

        assert delivered == tasks


class TestThreads:
    def test_no_more_batches_run_at_once_than_there_are_threads(self, start_threads: StartThreads) -> None:
        lock, together = Lock(), Barrier(2)
        active: list[int] = [0]

        def run(inputs: Arrays) -> Arrays:
            with lock:
                active.append(active[-1] + 1)
            together.wait(WAIT)
            with lock:
                active.append(active[-1] - 1)
            return doubled(inputs)

        scheduler = Scheduler(start_threads(2), run, Options(max_batch_size=1))
        futures = [scheduler.call(row(value)) for value in range(8)]

        assert [result(future) for future in futures] == [[2 * value] for value in range(8)]
        assert max(active) == 2

    def test_are_shared_by_schedulers(self, start_threads: StartThreads) -> None:
        together = Barrier(2)

        def run(inputs: Arrays) -> Arrays:
            together.wait(WAIT)
            return doubled(inputs)

        threads = start_threads(2)
        one, other = (Scheduler(threads, run, Options()) for _ in range(2))
        futures = [one.call(row(1)), other.call(row(2))]

        assert [result(future) for future in futures] == [[2], [4]]

    def test_end_when_they_are_closed(self) -> None:
        threads = BatchThreads(3)
        before = set(all_threads())
        threads.start()
        started = set(all_threads()) - before

        threads.close()

        assert len(started) == 3
        assert not any(thread.is_alive() for thread in started)

    def test_run_waiting_tasks_before_they_end(self) -> None:
        threads = BatchThreads(1)
        scheduler = Scheduler(threads, doubled, Options(batch_timeout_micros=3_600_000_000))
        future = scheduler.call(row(1))
        threads.start()

        threads.close()

        assert future.result(0)["y"] == [2]

    def test_can_be_closed_without_having_been_started(self) -> None:
        threads = BatchThreads(1)

        threads.close()

        with pytest.raises(Closed):
            Scheduler(threads, doubled, Options()).call(row(1))


class TestClose:
    def test_runs_waiting_tasks_at_once(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, doubled, Options(batch_timeout_micros=3_600_000_000))
        future = scheduler.call(row(1))

        scheduler.close()

        assert future.result(0)["y"] == [2]
        with pytest.raises(Closed, match="the scheduler is closed"):
            scheduler.call(row(1))

    def test_waits_for_the_batch_that_runs(self, threads: BatchThreads) -> None:
        gate = Gate()
        scheduler = Scheduler(threads, gate, Options())
        gate.occupy(scheduler)
        future = scheduler.call(row(1))
        closing = Thread(target=scheduler.close)
        closing.start()

        assert not future.done()
        assert closing.is_alive()
        gate.let_go()
        closing.join(WAIT)

        assert future.result(0)["y"] == [2]

    def test_leaves_other_schedulers_alone(self, threads: BatchThreads) -> None:
        one, other = (Scheduler(threads, doubled, Options()) for _ in range(2))

        one.close()

        assert result(other.call(row(1))) == [2]


def test_a_batch_that_has_lost_its_tasks_ends(threads: BatchThreads) -> None:
    # A batch is empty after an internal failure that also lost its tasks.
    Scheduler(threads, doubled, Options()).lane.execute(Batch([], Options()))


class TestReports:
    def test_describe_each_run(self, threads: BatchThreads) -> None:
        reports: list[BatchReport] = []
        gate = Gate()
        options = Options(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))
        scheduler = Scheduler(threads, gate, options, observe=reports.append)
        gate.occupy(scheduler)
        futures = [scheduler.call(row(1)), scheduler.call(row(2, 3))]
        gate.let_go()
        wait(futures, WAIT)
        scheduler.close()

        first, second = reports
        assert (first.tasks, first.rows, first.padding, first.failed) == (1, 1, 0, False)
        assert (second.tasks, second.rows, second.padding, second.failed) == (2, 3, 1, False)
        assert 0 < first.ran < WAIT
        assert 0 < second.waited < WAIT

    def test_do_not_keep_answers_waiting(self, threads: BatchThreads) -> None:
        answered = Event()
        scheduler = Scheduler(threads, doubled, Options(), observe=lambda _: wait_for(answered))

        assert scheduler.call(row(1)).result(WAIT)["y"] == [2]
        answered.set()

    def test_say_that_it_failed(self, threads: BatchThreads) -> None:
        reports: list[BatchReport] = []

        def run(inputs: Arrays) -> Arrays:
            if inputs["x"].min() < 0:
                raise ValueError
            return doubled(inputs)

        gate = Gate(run)
        scheduler = Scheduler(threads, gate, Options(), observe=reports.append)
        gate.occupy(scheduler)
        scheduler.call(row(-1))
        scheduler.call(row(2))
        gate.let_go()
        scheduler.close()

        assert [(report.tasks, report.failed) for report in reports[1:]] == [(2, True), (1, True), (1, False)]


class TestMemory:
    def test_an_idle_thread_keeps_no_arrays(self, threads: BatchThreads) -> None:
        scheduler = Scheduler(threads, doubled, Options())
        inputs = row(1)
        seen = weakref.ref(inputs["x"])
        assert result(scheduler.call(inputs)) == [2]
        del inputs

        eventually(lambda: seen() is None)

"""Threads for loads and unloads: they are kept from one task to the next, and their number is limited."""

import os
import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Thread, current_thread
from types import SimpleNamespace
from typing import cast

import onnxruntime as ort
import pytest
from onnx.helper import make_node

from headrace_server.models.action_threads import ActionThread, ActionThreads
from headrace_server.models.freeing import free_in_time
from headrace_server.models.servable import Servable
from headrace_server.models.turns import SECONDS, ShortTurns
from headrace_server.processes.time_slices import LOAD_NS
from tests.support.graphs import FLOAT, Graph
from tests.support.scarcity import no_threads
from tests.support.slices import needs_slices, slice_of

PATIENCE = 60.0


@pytest.fixture
def threads() -> Iterator[ActionThreads]:
    threads = ActionThreads("load", 2)
    yield threads
    threads.close()


def run(taken: ActionThread | None) -> Thread:
    """The thread on which a function runs."""
    assert taken is not None
    ran: SimpleQueue[Thread] = SimpleQueue()
    taken.put(lambda: ran.put(current_thread()))
    return ran.get(timeout=PATIENCE)


class TestThreads:
    def test_consecutive_tasks_run_on_the_same_thread(self, threads: ActionThreads) -> None:
        ran_on = []
        for _ in range(5):
            taken = threads.take()
            ran_on.append(run(taken))
            threads.give_back(taken)
        assert len(set(ran_on)) == 1
        assert ran_on[0].name == "load-0"

    def test_concurrent_tasks_run_on_several_threads(self, threads: ActionThreads) -> None:
        first, second = threads.take(), threads.take()
        assert not threads.free
        assert run(first) is not run(second)
        threads.give_back(second)
        assert threads.free

    def test_the_thread_that_became_idle_last_comes_first(self, threads: ActionThreads) -> None:
        first, second = threads.take(), threads.take()
        threads.give_back(first)
        threads.give_back(second)
        assert threads.take() is second

    def test_without_threads_the_caller_runs_the_task(self) -> None:
        threads = ActionThreads("load", 0)
        assert threads.free
        assert threads.take() is None
        assert not threads.free
        threads.give_back(None)
        assert threads.free

    def test_closing_waits_for_submitted_tasks(self) -> None:
        threads, done = ActionThreads("load", 1), Event()
        taken = threads.take()
        assert taken is not None
        taken.put(done.set)
        thread = run(taken)
        threads.close()
        assert done.is_set()
        assert not thread.is_alive()


class TestScarcity:
    """The system has no thread left."""

    def test_the_caller_runs_the_task_until_there_is_a_thread(self, threads: ActionThreads) -> None:
        with no_threads():
            assert threads.take() is None
            threads.give_back(None)
        taken = threads.take()
        run(taken)
        threads.give_back(taken)
        assert threads.running == 0

    def test_a_version_is_freed(self) -> None:
        closed: list[bool] = []
        version = SimpleNamespace(name="m", version=1, close=lambda: closed.append(True))
        with no_threads():
            assert free_in_time(cast("Servable", version))
        assert closed == [True]


@needs_slices
class TestSlices:
    def test_a_load_has_a_long_slice_and_the_threads_of_the_models_runs_a_usual_one(
        self, threads: ActionThreads
    ) -> None:
        slices: SimpleQueue[tuple[int, set[int]]] = SimpleQueue()
        graph = Graph([make_node("Neg", ["x"], ["y"])], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])})
        model, options = graph.model().SerializeToString(), ort.SessionOptions()
        options.intra_op_num_threads = 3

        def load() -> None:
            before = set(os.listdir("/proc/self/task"))
            session = ort.InferenceSession(model, options)
            started = set(os.listdir("/proc/self/task")) - before
            slices.put((slice_of(), {slice_of(int(thread)) for thread in started}))
            del session

        taken = threads.take()
        assert taken is not None
        taken.put(load)
        assert slices.get(timeout=PATIENCE) == (LOAD_NS, {slice_of()})

    def test_an_unload_has_a_long_slice(self) -> None:
        slices: SimpleQueue[int] = SimpleQueue()
        version = SimpleNamespace(name="m", version=1, close=lambda: slices.put(slice_of()))
        assert free_in_time(cast("Servable", version))
        assert slices.get(timeout=PATIENCE) == LOAD_NS


class TestTurns:
    def test_switch_intervals_are_short_until_the_last_task_has_ended(self) -> None:
        usual, turns = sys.getswitchinterval(), ShortTurns()
        with turns:
            with turns:
                assert sys.getswitchinterval() == pytest.approx(SECONDS)
            assert sys.getswitchinterval() == pytest.approx(SECONDS)
        assert sys.getswitchinterval() == pytest.approx(usual)

    def test_two_servers_in_one_process_restore_the_usual_interval(self) -> None:
        usual, own, other = sys.getswitchinterval(), ShortTurns(), ShortTurns()
        with own:
            other.__enter__()
        other.__exit__()
        assert sys.getswitchinterval() == pytest.approx(usual)

    def test_a_shorter_interval_is_kept(self) -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(SECONDS / 10)
        try:
            with ShortTurns():
                assert sys.getswitchinterval() == pytest.approx(SECONDS / 10)
        finally:
            sys.setswitchinterval(usual)

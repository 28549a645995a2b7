"""Threads for loads and unloads: they are kept from one task to the next, and their number is limited."""

import sys
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event, Thread, current_thread

import pytest

from headrace_server.models.action_threads import ActionThread, ActionThreads
from headrace_server.models.turns import SECONDS, ShortTurns

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

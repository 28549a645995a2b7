"""The watchdog and the batch threads while the system has no thread left."""

from collections.abc import Iterator
from threading import Event

import pytest

from headrace_batching import BatchThreads
from headrace_batching.watchdog import Watchdog
from tests.support.scarcity import no_threads

PATIENCE = 60.0


@pytest.fixture
def watchdog() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    yield watchdog
    watchdog.close()


def test_runs_have_limits_once_the_watchdog_has_a_thread(watchdog: Watchdog) -> None:
    first, second = Event(), Event()
    with no_threads(), pytest.raises(RuntimeError):
        watchdog.begin(0, first.set)
    watchdog.begin(0, second.set)

    assert second.wait(PATIENCE)
    assert not first.is_set()


def test_a_watchdog_that_never_got_a_thread_closes() -> None:
    watchdog = Watchdog()
    with no_threads(), pytest.raises(RuntimeError):
        watchdog.begin(0, lambda: None)
    watchdog.close()


def test_a_run_that_cannot_be_abandoned_does_not_end_the_limits_of_others(
    watchdog: Watchdog, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")

    abandoned = Event()
    watchdog.begin(0, fail)
    watchdog.begin(0, abandoned.set)

    assert abandoned.wait(PATIENCE)
    assert "a run that takes too long could not be abandoned completely" in caplog.text


def test_threads_that_cannot_be_added_leave_those_that_exist() -> None:
    threads = BatchThreads(2)
    threads.start()
    with no_threads(), pytest.raises(RuntimeError):
        threads.add(3)
    assert threads.count == 2
    threads.add(1)
    assert threads.count == 3
    threads.close()


def test_threads_of_which_only_some_can_be_added() -> None:
    threads = BatchThreads(1)
    threads.start()
    with no_threads("batch-2"), pytest.raises(RuntimeError):
        threads.add(3)
    assert threads.count == 1
    threads.close()

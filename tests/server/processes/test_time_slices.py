"""Long time slices: setting them changes nothing else about a thread."""

import os
import platform
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread, get_native_id
from typing import TypeVar

import pytest

from headrace_server.processes import time_slices
from headrace_server.processes.child import NICENESS, lower_priority
from headrace_server.processes.time_slices import LOAD_NS, LONG_NS, give_way, lengthen_slice
from tests.support.slices import needs_slices, slice_of

pytestmark = needs_slices

T = TypeVar("T")

NO_THREAD = 1 << 22
"""Larger than the number of any thread. Another thread may get the number of one that has ended."""


class OnThread:
    """Runs functions on a thread of its own, whose settings end with it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, function: Callable[[], T]) -> T:
        return self._pool.submit(function).result()


@pytest.fixture
def on_thread() -> Iterator[OnThread]:
    with ThreadPoolExecutor(1) as pool:
        yield OnThread(pool)


def test_a_slice_is_lengthened_and_the_nice_value_stays(on_thread: OnThread) -> None:
    on_thread(lambda: os.setpriority(os.PRIO_PROCESS, 0, 15))
    assert on_thread(lengthen_slice)
    assert on_thread(slice_of) == LONG_NS > slice_of()
    assert on_thread(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == 15


def test_another_thread_is_named_by_its_number(on_thread: OnThread) -> None:
    number = on_thread(get_native_id)
    assert lengthen_slice(number)
    assert on_thread(slice_of) == LONG_NS > slice_of()


def test_threads_inherit_the_slice(on_thread: OnThread) -> None:
    found: list[int] = []

    def start() -> None:
        lengthen_slice()
        thread = Thread(target=lambda: found.append(slice_of()))
        thread.start()
        thread.join()

    on_thread(start)
    assert found == [LONG_NS]


def test_a_thread_that_loads_has_a_longer_slice_and_those_that_it_starts_do_not(on_thread: OnThread) -> None:
    started: list[int] = []

    def load() -> int:
        assert give_way()
        thread = Thread(target=lambda: started.append(slice_of()))
        thread.start()
        thread.join()
        return slice_of()

    on_thread(lambda: os.setpriority(os.PRIO_PROCESS, 0, 15))
    assert on_thread(load) == LOAD_NS
    assert started == [slice_of()]
    assert on_thread(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == 15


def test_a_thread_with_a_raised_priority_that_loads_is_left_alone(
    on_thread: OnThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpriority", lambda *_: -1)
    assert not on_thread(give_way)
    assert on_thread(slice_of) == slice_of()


def test_a_thread_with_another_policy_is_left_alone(on_thread: OnThread) -> None:
    on_thread(lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)))
    assert not on_thread(lengthen_slice)
    assert on_thread(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE


def test_a_refusal_raises_nothing(on_thread: OnThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(time_slices._SCHED_SETATTR, platform.machine(), 9999)  # there is no such system call
    assert not on_thread(lengthen_slice)


def test_a_thread_that_has_ended_is_reported() -> None:
    with pytest.raises(ProcessLookupError):
        lengthen_slice(NO_THREAD)


def test_a_thread_that_ends_meanwhile_does_not_keep_the_priority_of_the_others(
    on_thread: OnThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = on_thread(get_native_id)
    monkeypatch.setattr(os, "listdir", lambda _: [str(NO_THREAD), str(number)])
    before = os.getpriority(os.PRIO_PROCESS, 0)
    lower_priority()
    assert on_thread(lambda: os.getpriority(os.PRIO_PROCESS, 0)) == min(19, before + NICENESS)
    assert on_thread(slice_of) == LONG_NS

"""The places for runs, which are mostly taken and put back without a lock."""

import os
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from threading import Event
from typing import Any, cast
from unittest.mock import Mock

import pytest

from headrace_server.processes.exchanges import create_exchange, create_free
from headrace_server.processes.keeper import Place, Places
from headrace_server.processes.links import create_link
from tests.support.running import eventually

PATIENCE = 30.0

needs_native = pytest.mark.skipif(not find_spec("headrace_native"), reason="headrace-native is not installed")


@pytest.fixture(params=[False, pytest.param(True, marks=needs_native)], ids=["list", "native"])
def places(request: pytest.FixtureRequest) -> Places:
    """Places that keep the free ones in either kind of list."""
    return Places(create_free(linked=request.param))


def place() -> Place:
    """A place in a process that is up."""
    exchange = None
    if find_spec("headrace_native"):
        link, descriptor = create_link()
        os.close(descriptor)
        exchange = create_exchange(link)
    return Place(cast("Any", Mock(ended=Event())), cast("Any", Mock()), cast("Any", Mock()), exchange, {})


def test_a_run_that_waits_gets_the_next_place_that_is_put_back(places: Places) -> None:
    put = place()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places._waiting == 1)
        places.put(put)
        assert waiting.result() is put
    assert places._waiting == 0


def test_no_run_waits_where_no_place_is_expected(places: Places) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places._waiting == 1)
        places.give_up()
        assert waiting.result() is None
    assert places.take(PATIENCE) is None


def test_a_run_waits_for_the_places_of_other_processes(places: Places) -> None:
    put = place()
    places.came_up(put.worker)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places._waiting == 1)
        places.give_up()
        assert not places.hopeless
        places.put(put)
        assert waiting.result() is put
    places.drop(put.worker)
    places.give_up()
    assert places.hopeless


def test_waiting_is_not_hopeless_once_a_place_is_put_back(places: Places) -> None:
    put = place()
    places.give_up()
    places.put(put)
    assert not places.hopeless
    assert places.take(0.0) is put


def test_a_place_whose_process_has_ended_is_closed_when_it_is_put_back(places: Places) -> None:
    put, other = place(), place()
    places.put(other)
    put.worker.ended.set()
    places.put(put)
    cast("Mock", put.slot).close.assert_called_once_with()
    assert [places.take(0.0), places.take(0.0)] == [other, None]


def test_only_free_places_of_the_process_are_dropped(places: Places) -> None:
    taken, free, other = place(), place(), place()
    free = free._replace(worker=taken.worker)
    for each in (other, free, taken):
        places.put(each)
    assert places.take(0.0) is taken
    places.drop(taken.worker)
    cast("Mock", free.slot).close.assert_called_once_with()
    cast("Mock", taken.slot).close.assert_not_called()
    assert [places.take(0.0), places.take(0.0)] == [other, None]


def test_no_place_is_taken_twice_or_lost(places: Places) -> None:
    both, used = [place(), place()], set[int]()
    for each in both:
        places.put(each)

    def use_often() -> None:
        for _ in range(2000):
            taken = places.take(PATIENCE)
            assert taken is not None
            assert id(taken) not in used
            used.add(id(taken))
            used.remove(id(taken))
            places.put(taken)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(use_often) for _ in range(4)]:
            done.result()
    assert {id(places.take(0.0)), id(places.take(0.0))} == set(map(id, both))


def test_a_place_that_was_put_back_without_a_word_is_found_by_settling(places: Places) -> None:
    put, ended = place(), place()
    ended.worker.ended.set()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places.free.watched)
        places.free.append(put)
        places.settle()
        assert waiting.result() is put
    assert not places.free.watched
    places.free.append(ended)
    places.settle()
    assert list(places.free) == []

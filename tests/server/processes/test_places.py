"""The places for runs, which are mostly taken and put back without a lock."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, cast
from unittest.mock import Mock

from headrace_server.processes.keeper import Place, Places
from tests.support.running import eventually

PATIENCE = 30.0


def place() -> Place:
    """A place in a process that is up."""
    return Place(cast("Any", Mock(ended=Event())), cast("Any", Mock()), cast("Any", Mock()))


def test_a_run_that_waits_gets_the_next_place_that_is_put_back() -> None:
    places, put = Places(), place()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places._waiting == 1)
        places.put(put)
        assert waiting.result() is put
    assert places._waiting == 0


def test_no_run_waits_where_no_place_is_expected() -> None:
    places = Places()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(places.take, PATIENCE)
        eventually(lambda: places._waiting == 1)
        places.give_up()
        assert waiting.result() is None
    assert places.take(PATIENCE) is None


def test_a_run_waits_for_the_places_of_other_processes() -> None:
    places, put = Places(), place()
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


def test_waiting_is_not_hopeless_once_a_place_is_put_back() -> None:
    places, put = Places(), place()
    places.give_up()
    places.put(put)
    assert not places.hopeless
    assert places.take(0.0) is put


def test_a_place_whose_process_has_ended_is_closed_when_it_is_put_back() -> None:
    places, put, other = Places(), place(), place()
    places.put(other)
    put.worker.ended.set()
    places.put(put)
    cast("Mock", put.slot).close.assert_called_once_with()
    assert [places.take(0.0), places.take(0.0)] == [other, None]


def test_only_free_places_of_the_process_are_dropped() -> None:
    places, taken, free, other = Places(), place(), place(), place()
    free = free._replace(worker=taken.worker)
    for each in (other, free, taken):
        places.put(each)
    assert places.take(0.0) is taken
    places.drop(taken.worker)
    cast("Mock", free.slot).close.assert_called_once_with()
    cast("Mock", taken.slot).close.assert_not_called()
    assert [places.take(0.0), places.take(0.0)] == [other, None]


def test_no_place_is_taken_twice_or_lost() -> None:
    places, both, used = Places(), [place(), place()], set[int]()
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

"""Small arrays that are reused, but only once nothing refers to them or to a view of them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from headrace_server.processes.sites import MOST, MOST_BYTES, Sites

FLOAT = np.dtype(np.float32)


@pytest.fixture
def sites() -> Sites:
    return Sites(lambda shape, dtype: np.empty(shape, dtype))


def test_an_array_is_used_again_when_its_last_view_is_gone(sites: Sites) -> None:
    first = sites.empty((2, 3), FLOAT)
    known, view = id(first), first[1:].T
    del first
    assert id(sites.empty((2, 3), FLOAT)) != known
    del view
    assert known in {id(array) for array in [sites.empty((2, 3), FLOAT), sites.empty((2, 3), FLOAT)]}


def test_two_arrays_in_use_are_different(sites: Sites) -> None:
    held = [sites.empty((4,), FLOAT) for _ in range(5)]
    assert len(set(map(id, held))) == 5


def test_shape_and_dtype_are_as_requested(sites: Sites) -> None:
    asked: list[tuple[tuple[int, ...], np.dtype[Any]]] = [((2, 3), FLOAT), ((2, 3), np.dtype(np.int64)), ((), FLOAT)]
    for shape, dtype in asked:
        array = sites.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, dtype)


def test_a_forgotten_array_is_not_used_again(sites: Sites) -> None:
    array = sites.empty((1,), FLOAT)
    known = id(array)
    sites.forget(array)
    assert sites.of(array) is None
    other = sites.empty((1,), FLOAT)
    assert id(other) != known


@pytest.mark.parametrize(("size", "kept"), [(0, False), (MOST_BYTES, True), (MOST_BYTES + 1, False)])
def test_only_small_arrays_are_kept(sites: Sites, size: int, kept: bool) -> None:
    array = sites.empty((size,), np.dtype(np.uint8))
    assert (sites.of(array) is not None) == kept


def test_a_limited_number_is_kept(sites: Sites) -> None:
    every = [sites.empty((size,), FLOAT) for size in range(1, 3 * MOST)]
    every += [sites.empty((MOST, 2), FLOAT)]
    assert 0 < sum(sites.of(array) is not None for array in every) <= MOST


def test_arrays_share_blocks_and_no_bytes() -> None:
    blocks: list[int] = []

    def create(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
        blocks.append(1)
        return np.empty(shape, dtype)

    sites = Sites(create)
    every = [sites.empty((size, 7), FLOAT) for size in range(1, MOST)]
    for number, array in enumerate(every):
        array[...] = number
    assert all((array == number).all() for number, array in enumerate(every))
    assert len(blocks) <= 2


def test_no_two_threads_have_one_array(sites: Sites) -> None:
    together = threading.Barrier(4)

    def use(number: int) -> bool:
        together.wait()
        alone = True
        for _ in range(2000):
            array = sites.empty((2,), FLOAT)
            array[...] = number
            alone = alone and array.tolist() == [number, number]
        return alone

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, range(4)))

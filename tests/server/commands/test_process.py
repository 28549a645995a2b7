"""The settings of the process that a server changes, and for how long."""

import gc
from collections.abc import Iterator

import pytest

from headrace_server.commands.collecting import NEW_OBJECTS, fewer_collections


@pytest.fixture(autouse=True)
def kept() -> Iterator[None]:
    usual = gc.get_threshold()
    yield
    gc.set_threshold(*usual)


@pytest.mark.parametrize(("usual", "expected"), [(700, NEW_OBJECTS), (10 * NEW_OBJECTS, 10 * NEW_OBJECTS), (0, 0)])
def test_garbage_is_collected_less_often_only_during_the_start(usual: int, expected: int) -> None:
    gc.set_threshold(usual, 10, 10)
    with fewer_collections():
        assert gc.get_threshold() == (expected, 10, 10)
    assert gc.get_threshold() == (usual, 10, 10)

"""The locations of arrays in the memory that the server shares with a worker process."""

from typing import Any

import numpy as np
import pytest

from headrace_server.processes.shared_memory import OwnedMemory


@pytest.mark.parametrize("array", [np.ones(4, np.float32), np.array([b"a text", b"another"], object)])
def test_small_arrays_in_use_share_a_block(array: np.ndarray[Any, Any]) -> None:
    """Each block takes two descriptors."""
    memory = OwnedMemory()
    places = [memory.place({"x": array}) for _ in range(20)]
    locations = [placed for (placed,), _ in places]
    assert len({placed.block for placed in locations}) == 1
    assert len({placed.offset for placed in locations}) == 20

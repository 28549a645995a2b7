"""Memory that C's allocator keeps after it was freed is returned to the system."""

import ctypes
import sys
from pathlib import Path

import pytest

from headrace_server.models.memory import REUSED_BYTES, Remains, release

BLOCKS, SIZE = 2000, 64 * 1024  # below the size from which the allocator maps each block separately


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_freed_memory_goes_back() -> None:
    c = ctypes.CDLL(None)
    c.malloc.restype = ctypes.c_void_p
    c.free.argtypes = [ctypes.c_void_p]
    blocks = [c.malloc(SIZE) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks[:-1]:  # the last block keeps the heap from shrinking by itself
        c.free(block)
    before = resident()
    release()
    given_back = before - resident()
    c.free(blocks[-1])

    assert given_back > BLOCKS * SIZE / 2


def test_a_little_of_what_made_room_is_left_to_the_next_loads() -> None:
    released: list[bool] = []
    remains = Remains(lambda: released.append(True))

    counts = []
    for size in (REUSED_BYTES // 2, REUSED_BYTES // 2, 1, REUSED_BYTES):
        remains.add(size)
        counts.append(len(released))
    assert counts == [0, 1, 1, 2]

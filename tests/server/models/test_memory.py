"""Memory that C's allocator keeps after it was freed is returned to the system."""

import ctypes
import sys

import pytest

from headrace_server.models.memory import REUSED_BYTES, Remains, release, resident

MB = 1 << 20

BLOCKS, SIZE = 2000, 64 * 1024  # below the size from which the allocator maps each block separately


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


class Process:
    """A process whose resident memory is set."""

    def __init__(self) -> None:
        self.resident = 100 * MB
        self.released = 0

    def release(self) -> None:
        self.released += 1


class TestRemains:
    def test_what_the_next_load_reuses_is_not_returned(self) -> None:
        process = Process()
        remains = Remains(process.release, lambda: process.resident)
        for _ in range(50):
            remains.add(24 * MB, loaded=50 * MB)
        assert process.released == 1  # at the first call, nothing is known of the process

    def test_what_no_load_reuses_is_returned(self) -> None:
        process = Process()
        remains = Remains(process.release, lambda: process.resident)
        remains.add(REUSED_BYTES, loaded=50 * MB)
        process.resident += REUSED_BYTES - MB
        remains.add(REUSED_BYTES, loaded=50 * MB)
        assert process.released == 1
        process.resident += MB
        remains.add(REUSED_BYTES, loaded=50 * MB)
        assert process.released == 2
        process.resident += 100 * MB
        remains.add(REUSED_BYTES, loaded=150 * MB)  # the growth is that of a version
        assert process.released == 2
        process.resident += REUSED_BYTES
        remains.add(REUSED_BYTES, loaded=150 * MB)
        assert process.released == 3

    def test_more_may_stay_with_more_versions(self) -> None:
        process = Process()
        remains = Remains(process.release, lambda: process.resident)
        remains.add(REUSED_BYTES, loaded=1000 * MB)
        process.resident += 99 * MB
        remains.add(REUSED_BYTES, loaded=1000 * MB)
        assert process.released == 1
        process.resident += MB
        remains.add(REUSED_BYTES, loaded=1000 * MB)
        assert process.released == 2

    def test_a_process_that_has_shrunk_may_not_grow_again(self) -> None:
        process = Process()
        remains = Remains(process.release, lambda: process.resident)
        remains.add(REUSED_BYTES, loaded=50 * MB)
        process.resident -= 2 * REUSED_BYTES
        remains.add(REUSED_BYTES, loaded=50 * MB)
        process.resident += REUSED_BYTES
        remains.add(REUSED_BYTES, loaded=50 * MB)
        assert process.released == 2

    def test_a_little_is_never_returned(self) -> None:
        process = Process()
        remains = Remains(process.release, lambda: process.resident)
        remains.add(REUSED_BYTES, loaded=50 * MB)
        process.resident += 10 * REUSED_BYTES  # a large request, for example
        remains.add(REUSED_BYTES - 1, loaded=50 * MB)
        assert process.released == 1
        remains.add(1, loaded=50 * MB)
        assert process.released == 2

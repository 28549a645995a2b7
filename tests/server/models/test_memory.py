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
    for block in blocks[:-1]:  # the last block keeps the heap from shrinking on its own
        c.free(block)
    before = resident()
    release()
    given_back = before - resident()
    c.free(blocks[-1])

    assert given_back > BLOCKS * SIZE / 2


class Process:
    """A process whose resident memory the test sets, and the memory that its unloaded versions have left behind."""

    def __init__(self) -> None:
        self.resident = 100 * MB
        self.released = 0
        self._remains = Remains(self._release, lambda: self.resident)

    def ends(self, freed: int, *, grown: int = 0, loaded: int = 50 * MB) -> int:
        """Grows the process, then frees the memory of a version; returns how often memory was returned so far."""
        self.resident += grown
        self._remains.add(freed, loaded=loaded)
        return self.released

    def _release(self) -> None:
        self.released += 1


class TestRemains:
    def test_memory_that_the_next_load_reuses_is_not_returned(self) -> None:
        process = Process()
        for _ in range(50):
            process.ends(24 * MB)
        assert process.released == 1  # the first call has no earlier size to compare with

    def test_memory_that_no_load_reuses_is_returned(self) -> None:
        process = Process()
        process.ends(REUSED_BYTES)
        assert process.ends(REUSED_BYTES, grown=REUSED_BYTES - MB) == 1
        assert process.ends(REUSED_BYTES, grown=MB) == 2
        # A loaded version explains the growth.
        assert process.ends(REUSED_BYTES, grown=100 * MB, loaded=150 * MB) == 2
        assert process.ends(REUSED_BYTES, grown=REUSED_BYTES, loaded=150 * MB) == 3

    def test_more_may_stay_with_more_versions(self) -> None:
        process = Process()
        process.ends(REUSED_BYTES, loaded=1000 * MB)
        assert process.ends(REUSED_BYTES, grown=99 * MB, loaded=1000 * MB) == 1
        assert process.ends(REUSED_BYTES, grown=MB, loaded=1000 * MB) == 2

    def test_a_process_that_has_shrunk_may_not_grow_again(self) -> None:
        process = Process()
        process.ends(REUSED_BYTES)
        process.ends(REUSED_BYTES, grown=-2 * REUSED_BYTES)
        assert process.ends(REUSED_BYTES, grown=REUSED_BYTES) == 2

    def test_a_little_memory_is_never_returned(self) -> None:
        process = Process()
        process.ends(REUSED_BYTES)
        # The process may have grown because of a large request.
        assert process.ends(REUSED_BYTES - 1, grown=10 * REUSED_BYTES) == 1
        assert process.ends(1) == 2

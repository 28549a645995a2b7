"""The memory of a process: its metrics, and that it has few heaps."""

import asyncio
import ctypes
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from headrace_server.metrics.heap import c_library, read_memory
from headrace_server.models import memory
from headrace_server.models.memory import WORTH_BYTES, Trimmer

HEAPS = """
import re, sys, threading
from headrace_server.metrics.heap import bound_arenas
bound_arenas()
def use():
    kept = [bytes(1000) for _ in range(1000)]
    import ctypes
    blocks = [ctypes.CDLL(None).malloc(5000) for _ in range(100)]
    barrier.wait()
barrier = threading.Barrier(12)
threads = [threading.Thread(target=use) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
import ctypes, os
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fflush(ctypes.c_void_p(file))
"""


def heaps(**environment: str) -> int:
    """The number of heaps of a process whose dozen threads all allocate memory."""
    text = subprocess.check_output([sys.executable, "-c", HEAPS], env={**os.environ, **environment}, text=True)
    return text.count("<heap ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="C's library is not glibc")
class TestHeaps:
    def test_threads_share_few_heaps(self) -> None:
        assert heaps() <= 2

    def test_the_users_number_of_heaps_is_kept(self) -> None:
        assert heaps(MALLOC_ARENA_MAX="7") > 2

    def test_heap_metrics_are_shown_with_the_resident_memory(self) -> None:
        memory = read_memory()

        assert memory["resident"] > 1 << 20
        assert set(memory) == {"resident", "heap_used", "heap_free", "heap_mapped"}


@pytest.mark.parametrize("look", [read_memory, memory.release])
def test_a_look_at_the_memory_leaves_no_garbage(look: Callable[[], object]) -> None:
    # In an idle server, Python once collected the garbage of such calls only after more than sixty of them.
    look()  # the first call creates objects that are kept

    def garbage() -> int:
        gc.collect()
        look()
        return gc.collect()

    assert min(garbage() for _ in range(5)) == 0  # another thread may leave some during a look


@contextmanager
def _free_memory(size: int) -> Iterator[None]:
    """At least this much memory that C's library keeps, since blocks between the free ones are in use."""
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    block = 64 << 10
    blocks = [ctypes.c_void_p(library.malloc(block)) for _ in range(2 * size // block)]
    for each in blocks:
        ctypes.memset(each, 1, block)
    for each in blocks[::2]:
        library.free(each)
    yield
    for each in blocks[1::2]:
        library.free(each)


class TestTrimmer:
    @pytest.mark.parametrize(
        ("free", "used", "trims"),
        [
            (WORTH_BYTES, 0, True),
            (WORTH_BYTES - 1, 0, False),
            (WORTH_BYTES, 4 * WORTH_BYTES, True),
            (WORTH_BYTES, 4 * WORTH_BYTES + 4, False),
        ],
    )
    def test_returns_memory_if_it_is_worthwhile(self, free: int, used: int, trims: bool) -> None:
        done = []
        use = {"resident": free + used, "heap_free": free, "heap_used": used}
        trimmer = Trimmer(lambda: done.append("models"), lambda: use, lambda: done.append("released"))

        assert trimmer.trim() is trims
        assert done == ["models", "released"][: 1 + trims]

    @pytest.mark.skipif(not hasattr(c_library(), "malloc_trim"), reason="C's library is not glibc")
    def test_returns_memory_once_and_again_after_it_was_used(self) -> None:
        trimmer = Trimmer(lambda: None)

        for _ in range(2):
            with _free_memory(2 * WORTH_BYTES):
                assert trimmer.trim()
                assert not trimmer.trim()

    @pytest.mark.parametrize(("unused", "trims"), [(WORTH_BYTES, True), (WORTH_BYTES - 1, False)])
    def test_free_memory_that_was_returned_counts_once_it_is_resident(self, unused: int, trims: bool) -> None:
        use = {"resident": 2 * WORTH_BYTES, "heap_used": 0, "heap_mapped": 0, "heap_free": 2 * WORTH_BYTES}
        trimmer = Trimmer(lambda: None, lambda: use, lambda: use.update(resident=0))

        assert trimmer.trim()
        use.update(resident=unused + 1000, heap_mapped=1000)

        assert trimmer.trim() is trims

    def test_looks_again_after_an_error_which_does_not_end_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "LOOK_SECONDS", 0.0)

        async def run() -> int:
            looks, twice, loop = 0, asyncio.Event(), asyncio.get_running_loop()

            def fail() -> None:
                nonlocal looks
                looks += 1
                if looks == 2:
                    loop.call_soon_threadsafe(twice.set)
                raise MemoryError

            trimmer = Trimmer(fail)
            trimmer.start()
            async with asyncio.timeout(10):
                await twice.wait()
            await trimmer.stop()
            return looks

        assert asyncio.run(run()) >= 2

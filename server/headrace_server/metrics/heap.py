"""The memory of this process: what the system counts, and how much of C's heap is in use and free."""

import ctypes
import os
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h

ARENAS = 2
"""The number of heaps that threads share: by default, glibc has up to eight per core, and keeps free memory in each."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "top",
        )
    )


@cache
def c_library() -> ctypes.CDLL | None:
    """The C library of this process if the system is Linux; glibc's has functions that others lack.

    The library is opened once, because each `ctypes.CDLL` defines a class. The class and its functions take 2 kB until
    Python next collects garbage, which is rare in a server whose calls are mostly answered in Rust.
    """
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def resident_memory(process: Path = Path("/proc/self")) -> int:
    """The number of resident bytes of a process.

    Args:
        process: The folder of the process in /proc.

    Raises:
        OSError: The system has no /proc.
    """
    return int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def read_memory(process: Path = Path("/proc/self")) -> dict[str, int]:
    """Bytes by kind: `resident`, and, if the C library is glibc, `heap_used`, `heap_free` and `heap_mapped`.

    Args:
        process: The folder of the process in /proc.
    """
    found = {"resident": resident_memory(process)}
    mallinfo = getattr(c_library(), "mallinfo2", None)
    if mallinfo is not None:
        mallinfo.restype = _Mallinfo2
        info = mallinfo()
        found |= {"heap_used": info.uordblks, "heap_free": info.fordblks, "heap_mapped": info.hblkhd}
    return found


def bound_arenas(environment: Mapping[str, str] = os.environ) -> None:
    """Makes all threads share a few heaps, if the C library is glibc and the user has not set their number.

    Must be called before there are threads: a thread that has a heap keeps it.
    """
    mallopt = getattr(c_library(), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in environment:
        mallopt(_ARENA_MAX, ARENAS)

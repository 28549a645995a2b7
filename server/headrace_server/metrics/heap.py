"""The memory of this process: what the system says that it has, and what C's heap holds of it, in use and free."""

import ctypes
import os
import sys
from collections.abc import Mapping
from pathlib import Path

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h

ARENAS = 2
"""Heaps that threads share: glibc makes up to eight a core, and keeps what is free in each."""


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


def read_memory(process: Path = Path("/proc/self")) -> dict[str, int]:
    """Bytes by kind: `resident`, and where C's library is glibc, `heap_used`, `heap_free` and `heap_mapped`.

    Args:
        process: Its folder.
    """
    found = {"resident": int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform.startswith("linux") else None
    if mallinfo is not None:
        mallinfo.restype = _Mallinfo2
        info = mallinfo()
        found |= {"heap_used": info.uordblks, "heap_free": info.fordblks, "heap_mapped": info.hblkhd}
    return found


def bound_arenas(environment: Mapping[str, str] = os.environ) -> None:
    """Has all threads share few heaps, where C's library is glibc and the user has not said how many.

    Before there are threads: one that has a heap keeps it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None and "MALLOC_ARENA_MAX" not in environment:
        mallopt(_ARENA_MAX, ARENAS)

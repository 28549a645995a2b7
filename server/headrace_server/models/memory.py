"""Freed memory, back to the system: C's allocator would rather keep it."""

import ctypes
import sys


def release() -> None:
    """Returns what is free in C's heap to the system, where its library can (glibc); a matter of milliseconds.

    TF Serving: SimpleLoader releases memory to the system after an unload.
    """
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

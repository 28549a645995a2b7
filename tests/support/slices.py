"""The time slices of threads, as Linux reports them."""

import ctypes
import os
import platform
import struct

import pytest

_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def slice_of(thread: int = 0) -> int:
    """The slice of a thread of any process in nanoseconds; of the calling one for 0.

    Raises:
        ProcessLookupError: The thread has ended.
    """
    found = ctypes.create_string_buffer(_ATTRIBUTES.size)
    number = _SCHED_GETATTR[platform.machine()]
    if ctypes.CDLL(None).syscall(number, thread, found, len(found), 0) != 0:
        raise ProcessLookupError(thread)
    slice_ns: int = _ATTRIBUTES.unpack(found.raw)[5]
    return slice_ns


def _has_slices() -> bool:
    if not hasattr(os, "sched_getscheduler") or platform.machine() not in _SCHED_GETATTR:
        return False
    try:
        return slice_of() > 0 and os.sched_getscheduler(0) == os.SCHED_OTHER
    except ProcessLookupError:
        return False


needs_slices = pytest.mark.skipif(not _has_slices(), reason="needs Linux 6.12 or newer, and the usual policy")

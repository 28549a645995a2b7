"""Long time slices: a thread with a long slice is interrupted as soon as a thread with a shorter one wakes.

Otherwise a thread that has just been given the CPU may keep it until its slice has ended, whatever the nice values.
A slice does not change a thread's share of the CPU. A thread inherits the slice of the thread that starts it. Linux
before 6.12 ignores slices.
"""

import ctypes
import os
import platform
import struct
import sys

LONG_NS = 5_000_000
"""A long slice, in nanoseconds: Linux's own is 0.7 ms to 3 ms, depending on the number of CPUs."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call for each machine: most C libraries have no function for it."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""The system's `struct sched_attr`: size, policy, flags, nice value, priority, runtime, deadline and period.

For the usual policies, the runtime is the slice in nanoseconds, and the deadline and the period mean nothing.
"""


def lengthen_slice(thread: int = 0) -> bool:
    """Gives a thread a slice of LONG_NS.

    Args:
        thread: The thread's number in the system; 0 means the calling thread.

    Returns: Whether the system has accepted it. A thread whose policy has no slices, such as a real-time one, is left
        alone.

    Raises:
        ProcessLookupError: The thread has ended.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    policy = os.sched_getscheduler(thread)
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return False
    nice = os.getpriority(os.PRIO_PROCESS, thread)  # on Linux, that of the thread
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, LONG_NS, 0, 0)
    accepted: int = ctypes.CDLL(None).syscall(number, thread, attributes, 0)  # a sandbox may refuse it
    return accepted == 0

"""Long time slices: a thread with a long slice is interrupted as soon as a thread with a shorter one wakes.

Otherwise a thread that has just been given the CPU may keep it until its slice has ended, whatever the nice values.
A slice does not change a thread's share of the CPU. A thread usually inherits the slice of the thread that starts it.
Linux before 6.12 ignores slices.
"""

import os
import platform
import struct

from headrace_server.metrics.heap import c_library

LONG_NS = 5_000_000
"""A long slice, in nanoseconds: Linux's own is 0.7 ms to 3 ms, depending on the number of CPUs."""

LOAD_NS = 20_000_000
"""The slice of a thread that loads or unloads versions, in nanoseconds: most loads end within a few of them."""

_RESET_ON_FORK = 1
"""The flag for settings that a thread does not pass on to the threads that it starts."""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""The number of the system call for each machine: most C libraries have no function for it."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""The system's `struct sched_attr`: size, policy, flags, nice value, priority, runtime, deadline and period.

For the usual policies, the runtime is the slice in nanoseconds, and the deadline and the period mean nothing.
"""


def lengthen_slice(thread: int = 0) -> bool:
    """Gives a thread a slice of LONG_NS, which the threads that it starts inherit.

    Args:
        thread: The thread's number in the system; 0 means the calling thread.

    Returns: Whether the system has accepted it. A thread whose policy has no slices, such as a real-time one, is left
        alone.

    Raises:
        ProcessLookupError: The thread has ended.
    """
    return _set_slice(thread, LONG_NS, inherited=True)


def give_way() -> bool:
    """Gives the calling thread a slice of LOAD_NS, so that threads which answer calls interrupt it when they wake.

    The threads that it starts, such as those that a runtime keeps for a model's runs, have usual slices.

    Returns: Whether the system has accepted it. A thread with a raised priority is left unchanged: the threads that it
        starts would lose that priority.
    """
    return _set_slice(0, LOAD_NS, inherited=False)


def _set_slice(thread: int, nanoseconds: int, *, inherited: bool) -> bool:
    library, number = c_library(), _SCHED_SETATTR.get(platform.machine())
    if library is None or number is None:
        return False
    policy = os.sched_getscheduler(thread)
    nice = os.getpriority(os.PRIO_PROCESS, thread)  # on Linux, that of the thread
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH) or (nice < 0 and not inherited):
        return False
    flags = 0 if inherited else _RESET_ON_FORK
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, flags, nice, 0, nanoseconds, 0, 0)
    accepted: int = library.syscall(number, thread, attributes, 0)  # a sandbox may refuse it
    return accepted == 0

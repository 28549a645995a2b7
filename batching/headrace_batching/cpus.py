"""How many CPUs this process may use: those that it may run on, or fewer if its container has a CPU quota."""

import math
import os
from pathlib import Path

from headrace_batching.control_groups import groups, lines

_ROOT = Path("/")


def schedulable_cpus(root: Path = _ROOT) -> int:
    """The number of CPUs that this process may keep busy, at least 1; a fraction is rounded up.

    Args:
        root: The folder that holds `proc` and the control groups' file systems.
    """
    cpus = affine_cpus()
    quota = cpu_quota(root)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def affine_cpus() -> int:
    """The number of CPUs that this process may run on, ignoring quotas."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The number of CPUs that Linux's control groups, version 1 or 2, allow on average; None means any number.

    This is the smallest limit of the process's own group and the groups above it, as far as a container can see them.

    Args:
        root: The folder that holds `proc` and the control groups' file systems.
    """
    quotas = [quota for folder in groups(root, "cpu") if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _quota_of(group: Path) -> float | None:
    both = lines(group / "cpu.max")
    if both:
        quota, _, period = both[0].partition(" ")
    else:
        quota, period = ("".join(lines(group / f"cpu.cfs_{name}_us")[:1]) for name in ("quota", "period"))
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max" or -1, which mean no quota
    return int(quota) / int(period)

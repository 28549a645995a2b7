"""How many CPUs this process may use: those it may run on, or fewer where its container has a quota of CPU time."""

import math
import os
from pathlib import Path

from headrace_batching.control_groups import groups, lines

_ROOT = Path("/")


def schedulable_cpus(root: Path = _ROOT) -> int:
    """The CPUs that this process may keep busy, at least 1; a part of one counts as a whole.

    Args:
        root: Where `proc` and the control groups' file systems are.
    """
    cpus = affine_cpus()
    quota = cpu_quota(root)
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def affine_cpus() -> int:
    """The CPUs that this process may run on, whatever part of their time is its own."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The CPUs that Linux's control groups, of either version, let this process use on average; None for any number.

    The least that its own group or any above it allows, as far as they can be seen from within a container.

    Args:
        root: Where `proc` and the control groups' file systems are.
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
        return None  # "max", or -1
    return int(quota) / int(period)

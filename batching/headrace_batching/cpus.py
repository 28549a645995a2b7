"""How many CPUs this process may use: those it may run on, or fewer where its container has a quota of CPU time."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

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
    quotas = [quota for folder in _groups(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that the process is in, each with those above it."""
    paths = dict(_paths_of_groups(root))
    for version, top, mount_point in _mounts(root):
        if version not in paths:
            continue
        path = PurePosixPath(paths[version])
        # A container sees its own group as the top of the file system, but often reads its path from the host's top.
        inner = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        group = root / mount_point.lstrip("/") / inner
        yield group
        for _ in inner.parts:
            group = group.parent
            yield group


def _paths_of_groups(root: Path) -> Iterator[tuple[int, str]]:
    """The version of each hierarchy that may limit CPUs, and the path of the process's group in it."""
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """The hierarchies that are mounted: the version, the path of the group that is its top, and the mount point."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        fields = before.split(" ")
        if kind == "cgroup2":
            yield 2, fields[3], fields[4]
        elif kind == "cgroup" and "cpu" in options.rpartition(" ")[2].split(","):
            yield 1, fields[3], fields[4]


def _quota_of(group: Path) -> float | None:
    both = _lines(group / "cpu.max")
    if both:
        quota, _, period = both[0].partition(" ")
    else:
        quota, period = ("".join(_lines(group / f"cpu.cfs_{name}_us")[:1]) for name in ("quota", "period"))
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None  # "max", or -1
    return int(quota) / int(period)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, ValueError):
        return []

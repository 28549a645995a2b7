"""The process metrics of Prometheus's clients in every language, `process_*`. Read from /proc on request."""

import os
import resource
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from headrace_server.metrics.exposition import Metric, Source
from headrace_server.metrics.series import Gauges

_STARTED = 19  # field 22 of proc(5)'s stat, counted from field 3
_SIZE, _RESIDENT = 0, 1  # the positions of both sizes in proc(5)'s statm


def read_process(proc: Path = Path("/proc")) -> dict[str, float]:
    """Numbers of this process by the names of their metrics, without those that the system does not report.

    Args:
        proc: The folder in which the system reports them.
    """
    return {name: number for name in _EXPLAINED for _, number in _only(name, proc)}


def process_metrics() -> Iterator[Metric]:
    """The metrics of this process."""
    for name, (kind, explanation, _) in _EXPLAINED.items():
        yield Metric(name, kind, explanation, [Source(Gauges(name, (), partial(_only, name)))])


def _only(name: str, proc: Path = Path("/proc")) -> list[tuple[tuple[str, ...], float]]:
    _, _, read = _EXPLAINED[name]
    with suppress(OSError):
        return [((), read(proc))]
    return []


def _cpu_seconds(proc: Path) -> float:
    del proc
    times = os.times()
    return times.user + times.system


def _max_fds(proc: Path) -> float:
    del proc
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _open_fds(proc: Path) -> float:
    return len(os.listdir(proc / "self/fd")) - 1  # without the descriptor that lists them


def _pages(column: int, proc: Path) -> float:
    return int((proc / "self/statm").read_text().split()[column]) * os.sysconf("SC_PAGE_SIZE")


@cache  # it does not change, and the system takes long to write /proc/stat
def _started(proc: Path) -> float:
    stat = (proc / "self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[_STARTED])  # a command's name may contain spaces
    booted = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


_EXPLAINED: Mapping[str, tuple[str, str, Callable[[Path], float]]] = {
    "process_cpu_seconds_total": (
        "counter", "User and system CPU time of the server's process, in seconds", _cpu_seconds
    ),
    "process_resident_memory_bytes": (
        "gauge", "Memory of the server's process that is in RAM", partial(_pages, _RESIDENT)
    ),
    "process_virtual_memory_bytes": (
        "gauge", "Address space that the server's process has mapped", partial(_pages, _SIZE)
    ),
    "process_open_fds": ("gauge", "Open file descriptors", _open_fds),
    "process_max_fds": ("gauge", "Limit on open file descriptors", _max_fds),
    "process_start_time_seconds": ("gauge", "When the process started, in seconds since 1970", _started),
}  # fmt: skip

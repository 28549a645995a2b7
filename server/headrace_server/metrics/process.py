"""What Prometheus's clients in every language tell of their process: `process_*`. Read from /proc when asked for."""

import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from headrace_server.metrics.exposition import Metric, Source
from headrace_server.metrics.series import Gauges

_STARTED = 19  # field 22 of proc(5)'s stat, counted from field 3

Values = Mapping[str, float]


def read_process(proc: Path = Path("/proc")) -> dict[str, float]:
    """Numbers of this process by the names of their metrics; those that the system does not tell are left out.

    Args:
        proc: Where the system tells them.
    """
    times = os.times()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    found: dict[str, float] = {"process_cpu_seconds_total": times.user + times.system, "process_max_fds": soft}
    with suppress(OSError):
        size, resident = (proc / "self/statm").read_text().split()[:2]
        page = os.sysconf("SC_PAGE_SIZE")
        found["process_virtual_memory_bytes"] = int(size) * page
        found["process_resident_memory_bytes"] = int(resident) * page
        found["process_open_fds"] = len(os.listdir(proc / "self/fd")) - 1  # without the one that lists them
        found["process_start_time_seconds"] = _started(proc)
    return found


def process_metrics() -> Iterator[Metric]:
    """The metrics of this process."""
    for name, (kind, explanation) in _EXPLAINED.items():
        yield Metric(name, kind, explanation, [Source(Gauges(name, (), partial(_only, name)))])


_EXPLAINED = {
    "process_cpu_seconds_total": ("counter", "User and system CPU time of the server's process, in seconds"),
    "process_resident_memory_bytes": ("gauge", "Memory of the server's process that is in RAM"),
    "process_virtual_memory_bytes": ("gauge", "Addresses that the server's process has mapped"),
    "process_open_fds": ("gauge", "File descriptors that are open"),
    "process_max_fds": ("gauge", "File descriptors that may be open"),
    "process_start_time_seconds": ("gauge", "When the process started, in seconds since 1970"),
}


def _only(name: str) -> list[tuple[tuple[str, ...], float]]:
    found = read_process()
    return [((), found[name])] if name in found else []


def _started(proc: Path) -> float:
    stat = (proc / "self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[_STARTED])  # a command's name may hold blanks
    booted = next(line for line in (proc / "stat").read_text().splitlines() if line.startswith("btime "))
    return int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")

"""A measured process: starts it, waits until it listens, reads its CPU time and memory, and stops it by its ID."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

_CPU_TIME = 2
"""The number by which Linux selects the CPU time of a process, in the lowest bits of a clock's ID."""


class StartError(RuntimeError):
    """A server ended, or never listened, before it could be measured."""


@dataclass(frozen=True)
class Server:
    """A running server process and the port that it listens on."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def address(self) -> str:
        """The host and port that a client connects to."""
        return f"127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Returns the CPU time spent so far by all threads of the process, live and ended, to the nanosecond."""
        clock = ~self.process.pid << 3 | _CPU_TIME  # as clock_getcpuclockid(3) computes it
        return time.clock_gettime_ns(clock) / 1e9

    def family_cpu_seconds(self) -> float:
        """Returns the CPU time of the process, its live child processes and their descendants."""
        return sum(int(ticks) for stat in self._family() for ticks in stat[11:13]) / _TICKS_PER_SECOND

    def family_rss_bytes(self) -> int:
        """Returns the memory that the process and its descendants hold now; shared pages are counted for each."""
        return sum(int(stat[21]) for stat in self._family()) * os.sysconf("SC_PAGE_SIZE")

    def _family(self) -> list[list[str]]:
        stats = {int(file.parent.name): _stat(file) for file in Path("/proc").glob("[0-9]*/stat")}
        family = {self.process.pid}
        for pid in sorted(stats):  # a child's ID is higher, unless the IDs have wrapped around
            if stats[pid] and int(stats[pid][1]) in family:
                family.add(pid)
        return [stats[pid] for pid in family if stats.get(pid)]

    def user_seconds(self) -> float:
        """Returns the user time alone, to a hundredth of a second."""
        return int(_stat(Path(f"/proc/{self.process.pid}/stat"))[11]) / _TICKS_PER_SECOND

    def peak_rss_bytes(self) -> int:
        """Returns the peak resident memory."""
        line = next(line for line in self._proc("status").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def _proc(self, name: str) -> str:
        return Path(f"/proc/{self.process.pid}/{name}").read_text()


@contextmanager
def running(command: Callable[[int], Sequence[str]], log: Path, patience: float = 60) -> Iterator[Server]:
    """Starts `command(port)`, waits until it listens, yields it, then stops it with SIGTERM and waits for its end.

    Its stderr goes to `log`, which is complete once this returns. Raises StartError if it does not listen within
    `patience` seconds, or does not exit within `patience` seconds after SIGTERM.
    """
    port = free_port()
    with log.open("wb") as stderr:
        process = subprocess.Popen(command(port), stdout=stderr, stderr=stderr)
    try:
        await_listening(process, port, log, time.monotonic() + patience)
        yield Server(process, port, log)
    finally:
        _stop(process, patience)


def _stat(file: Path) -> list[str]:
    """The fields of proc(5) after the command's name, which may contain spaces; none if the process has ended."""
    try:
        return file.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def busy_seconds() -> float:
    """Returns the user and system time that all processes of the machine have spent since it started."""
    user, nice, system = Path("/proc/stat").read_text().split(maxsplit=4)[1:4]
    return (int(user) + int(nice) + int(system)) / _TICKS_PER_SECOND


def free_port() -> int:
    """Returns a TCP port that nothing listens on."""
    # Not an ephemeral port: a client that retries connecting to one may connect to itself.
    # Random even if the program has set a seed: otherwise, two such programs would choose the same port before either
    # of them binds it.
    for port in random.SystemRandom().sample(range(20_000, 30_000), 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port
    raise StartError("no free port between 20000 and 30000")


def await_listening(process: subprocess.Popen[bytes], port: int, log: Path, until: float) -> None:
    """Waits until a process listens on a port.

    Raises StartError if it ends before that, or does not listen at this time of the monotonic clock.
    """
    while process.poll() is None and time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise StartError(f"{process.args!r} does not listen:\n{log.read_text()[-2000:]}")


def _stop(process: subprocess.Popen[bytes], patience: float) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired as late:
        process.kill()
        process.wait()
        raise StartError(f"{process.args!r} did not exit after SIGTERM") from late

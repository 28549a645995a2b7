"""Runs h2load as the client, and parses what it prints and logs."""

import os
import re
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cases import Load

PREDICT = "/tensorflow.serving.PredictionService/Predict"

_RATE = re.compile(r"finished in .*?, ([\d.]+) req/s")
_REQUESTS = re.compile(r"(\d+) total, \d+ started, \d+ done, (\d+) succeeded")
_DONE = re.compile(r"(\d+) done, (\d+) succeeded")
_DATA = re.compile(r"\((\d+)\) data$", re.MULTILINE)


class LoadError(RuntimeError):
    """Not all calls of a load were answered, so its numbers are meaningless."""


@dataclass(frozen=True)
class Caller:
    """h2load, with its target and its message.

    Attributes:
        address: The server's host and port.
        message: A file with one gRPC message after its five-byte prefix.
        answer_bytes: The length of the answer with its prefix.
        load: The number of connections, and of calls on each.
        method: The path of the method.
        more: Further arguments of h2load.
    """

    address: str
    message: Path
    answer_bytes: int
    load: Load
    method: str = PREDICT
    more: tuple[str, ...] = ()

    def warm_up(self, seconds: float) -> float:
        """Loads for about `seconds` and returns the requests per second of the second half."""
        count = self.load.connections * self.load.streams
        while True:
            started = time.monotonic()
            rate = self.run(count).requests_per_second
            elapsed = time.monotonic() - started
            if elapsed >= seconds / 2:
                return rate
            count *= max(2, round(seconds / 2 / elapsed))

    def run(self, count: int, log: Path | None = None) -> "Answers":
        """Makes `count` calls and returns how they were answered.

        Raises LoadError if a call failed. h2load counts each HTTP 200 as a success, and gRPC errors have that status,
        too, so the bytes of the answers are counted.
        """
        output, cpu_seconds = self._h2load(count, log)
        rate, requests, data = _RATE.search(output), _REQUESTS.search(output), _DATA.search(output)
        if not (rate and requests and data):
            raise LoadError(f"h2load's output cannot be parsed:\n{output}")
        if int(requests[2]) != count or int(data[1]) != count * self.answer_bytes:
            raise LoadError(f"not all of {count} calls were answered with {self.answer_bytes} bytes:\n{output}")
        per_second = float(rate[1])
        return Answers(per_second, cpu_seconds * per_second / count, _latencies(log))

    def _h2load(self, count: int, log: Path | None) -> tuple[str, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(self._command(count, log), capture_output=True, text=True, check=False, timeout=120)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode != 0:
            raise LoadError(f"h2load failed:\n{done.stdout}{done.stderr}")
        return done.stdout, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    def _command(self, count: int, log: Path | None) -> list[str]:
        threads = min(self.load.connections, max(1, (os.cpu_count() or 1) // 2))
        shape = {"-n": count, "-c": self.load.connections, "-m": self.load.streams, "-t": threads, "-d": self.message}
        arguments = [str(part) for pair in shape.items() for part in pair]
        headers = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        logging = [f"--log-file={log}"] if log else []
        return ["h2load", *arguments, *headers, *logging, *self.more, f"http://{self.address}{self.method}"]


@dataclass(frozen=True)
class Answers:
    """The figures of one load, all of whose calls were answered.

    Attributes:
        requests_per_second: The number of calls per second.
        caller_cores: The CPU that h2load itself used, in cores.
        latencies: The microseconds of each call; empty if they were not logged.
    """

    requests_per_second: float
    caller_cores: float
    latencies: np.ndarray


def post(url: str, body: Path, connections: int, count: int, headers: Sequence[str] = ()) -> float:
    """POSTs a body this many times over HTTP/1.1, one request at a time per connection; returns requests per second.

    Raises LoadError if an answer's status was not 2xx.
    """
    command = ["h2load", "--h1", "-n", count, "-c", connections, "-t", 1, "-d", body]
    for header in ("content-type: application/json", *headers):
        command += ["-H", header]
    output = subprocess.run(
        [str(part) for part in [*command, url]], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    rate, done = _RATE.search(output), _DONE.search(output)
    if rate is None or done is None or int(done[2]) != count:
        raise LoadError(f"not all of {count} requests were answered:\n{output}")
    return float(rate[1])


@contextmanager
def idle_connections(port: int, count: int) -> Iterator[None]:
    """Keeps this many idle HTTP/2 connections open."""
    # The connection preface and an empty SETTINGS frame.
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)).sendall(hello)
        yield


def _latencies(log: Path | None) -> np.ndarray:
    if log is None:
        return np.empty(0)
    # h2load appends to an existing file, so the file is deleted after each run.
    times = np.loadtxt(log, usecols=2, ndmin=1)
    log.unlink()
    return times


def h2load_version() -> str | None:
    """Returns the output of `h2load --version`, or None if h2load is missing."""
    if shutil.which("h2load") is None:
        return None
    return subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True).stdout.strip()

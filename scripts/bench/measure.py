"""Measures one case: every server in turn, round after round, and the bare loop."""

import re
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from .cases import ONE_CALLER, Case, Load
from .contenders import Contender
from .load import Caller, idle_connections
from .ort_loop import Loop, LoopSample
from .process import Server, busy_seconds, running
from .requests import PREFIX_BYTES, checked_answer, framed, request

_SERVED = re.compile(r"served .*? requests, .*? batches, mean .*? rows \((.*)\)$", re.MULTILINE)


@dataclass(frozen=True)
class Budget:
    """The number of rounds, and the seconds of one measured load."""

    rounds: int
    seconds: float


@dataclass(frozen=True)
class Sample:
    """The figures of one server under one load in one round.

    Attributes:
        requests_per_second: The number of requests per second.
        cpu_us: The server's user and system time per request, in microseconds.
        user_us: The server's user time alone per request, in microseconds.
        latency_us: The 50th, 90th and 99th percentile of the latency, in microseconds.
        caller_cores: The CPU of h2load, in cores.
        other_cores: The CPU of all unrelated processes, in cores.
        peak_rss_bytes: The server's peak resident memory.
        batches: The number of batches by range of rows, from headrace's log.
    """

    requests_per_second: float
    cpu_us: float
    user_us: float
    latency_us: tuple[float, float, float]
    caller_cores: float
    other_cores: float
    peak_rss_bytes: int
    batches: dict[str, int]


@dataclass(frozen=True)
class Results:
    """All samples of a case, one per round: by the server's name, or by batch size for the loop."""

    case: Case
    loaded: dict[str, list[Sample]] = field(default_factory=dict)
    idle: dict[str, list[Sample]] = field(default_factory=dict)
    loop: dict[int, list[LoopSample]] = field(default_factory=dict)


def measure(case: Case, contenders: list[Contender], budget: Budget, folder: Path) -> Results:
    """Measures the servers in the order A B C A B C, under the case's load and then with one caller."""
    bench = Bench(case, folder)
    results = Results(case)
    seconds = budget.seconds * case.longer
    for _ in range(budget.rounds):
        for contender in contenders:
            results.loaded.setdefault(contender.name, []).append(bench.sample(contender, case.load, seconds))
            results.idle.setdefault(contender.name, []).append(bench.sample(contender, ONE_CALLER, budget.seconds / 2))
        for loop_sample in bench.loop.samples(budget.seconds / 4):
            results.loop.setdefault(loop_sample.batch, []).append(loop_sample)
    return results


class Bench:
    """A case's model and message on disk, and its correct answer."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.loop = Loop(case, case.save(folder / "model"))
        self._case = case
        self._folder = folder
        row = case.rows(1)
        self._expected = self.loop.answer(row)
        self._request = request(case, row)
        self._message = folder / "message"
        self._message.write_bytes(framed(self._request))

    def sample(self, contender: Contender, load: Load, seconds: float, idle: int = 0) -> Sample:
        """Starts the server, warms it up, loads it for about `seconds`, and stops it.

        Meanwhile, `idle` connections without calls are open.
        """
        log = self._folder / "server.log"
        with running(partial(contender.command, self._case, self._folder / "model"), log) as server:
            size = self._checked_answer(server, contender)
            caller = Caller(server.address, self._message, size + PREFIX_BYTES, load)
            with idle_connections(server.port, idle):
                sample = _loaded(server, caller, seconds)
            self._checked_answer(server, contender)
        return replace(sample, batches=_served(log.read_text())) if contender.infers else sample

    def _checked_answer(self, server: Server, contender: Contender) -> int:
        return checked_answer(server.address, self._request, self._expected, values=contender.infers)


def _loaded(server: Server, caller: Caller, seconds: float) -> Sample:
    rate = caller.warm_up(seconds / 3)
    calls = caller.load.connections * caller.load.streams
    count = max(calls, round(rate * seconds))
    user, busy, cpu, started = server.user_seconds(), busy_seconds(), server.cpu_seconds(), time.monotonic()
    answers = caller.run(count)
    busy, cpu, elapsed = busy_seconds() - busy, server.cpu_seconds() - cpu, time.monotonic() - started
    user = server.user_seconds() - user
    # A second load, so that the log of every call affects no other figure.
    latencies = caller.run(max(calls, count // 3), server.log.with_name("h2load.log")).latencies
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99)).tolist()
    return Sample(
        requests_per_second=answers.requests_per_second,
        cpu_us=cpu / count * 1e6,
        user_us=user / count * 1e6,
        latency_us=(p50, p90, p99),
        caller_cores=answers.caller_cores,
        other_cores=max(0, (busy - cpu) / elapsed - answers.caller_cores),
        peak_rss_bytes=server.peak_rss_bytes(),
        batches={},
    )


def _served(log: str) -> dict[str, int]:
    """Returns the batches by range of rows from the log of a stopped headrace: `(1: 3, 2-3: 40)`."""
    line = _SERVED.search(log)
    if line is None:
        raise ValueError(f"headrace did not log the batches that it served:\n{log[-2000:]}")
    return {rows: int(batches) for rows, batches in (part.split(": ") for part in line[1].split(", "))}

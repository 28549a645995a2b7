"""A load over REST with the interface of `headrace_native.Load`: Python threads with one connection each.

It is simple and slow: it uses about ten times as much CPU per call as the native loop. If that limits the load, the
report says so.
"""

import random
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from threading import Condition, Thread
from typing import Any

from headrace_client.bench.rest import UNAVAILABLE, RestConnection, RestRequest, words
from headrace_client.tls import Tls

MOST_THREADS = 256
PAUSE = 0.01
"""Seconds that a caller pauses after a call that did not reach the server."""

_CODES = 17
_DIGITS = 3


class RestLoad:
    """A load on one server.

    Args:
        target: A host and a port.
        kinds: For each kind of request, its relative share of the calls, and requests that are sent in turn.
        plan: The plan, as for a `headrace_native.Load`.
        tls: The certificates; None means no TLS.
    """

    def __init__(
        self,
        target: str,
        kinds: Sequence[tuple[float, Sequence[RestRequest]]],
        plan: Mapping[str, Any],
        tls: Tls | None = None,
    ) -> None:
        self._target = target
        self._tls = tls
        self._kinds = kinds
        self._plan = plan
        self._random = random.Random(plan["seed"])
        self._lock = Condition()
        self._due: deque[tuple[float, int]] = deque()
        self._stopping = False
        self._turns = [0] * len(kinds)
        self._begun = self._ended = self._failed = 0
        self._latency: list[Counter[int]] = [Counter() for _ in kinds]
        self._failures: list[Counter[int]] = [Counter() for _ in kinds]
        self._codes = [[0] * _CODES for _ in kinds]
        self._bytes = [0] * len(kinds)
        self._lag: Counter[int] = Counter()
        self._texts: dict[int, str] = {}
        self._threads: list[Thread] = []
        self._start = 0.0
        self._cpu = 0.0
        self._spent = (0.0, 0.0)

    def start(self, metadata: Sequence[tuple[str, str]]) -> None:
        """Starts the load, once; the metadata is sent with every request, as headers."""
        closed = not self._plan["times"] and self._plan["rate"] <= 0
        callers = min(self._plan["concurrency"], MOST_THREADS)
        work = self._call_again if closed else self._call_when_due
        connections = [RestConnection(self._target, metadata, self._plan["timeout"], self._tls) for _ in range(callers)]
        self._threads = [Thread(target=work, args=(each,), daemon=True) for each in connections]
        if not closed:
            self._threads.append(Thread(target=self._pace, daemon=True))
        self._start, self._cpu = time.perf_counter(), time.process_time()
        for thread in self._threads:
            thread.start()

    def progress(self) -> tuple[float, int, int, int]:
        """The seconds since the start, and the numbers of calls that have begun, ended, and failed."""
        return time.perf_counter() - self._start, self._begun, self._ended, self._failed

    def wait(self, seconds: float) -> bool:
        """Waits for at most this many seconds; returns whether the load has ended."""
        until = time.perf_counter() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.perf_counter()))
        ended = not any(thread.is_alive() for thread in self._threads)
        if ended and not self._spent[1]:
            self._spent = (time.process_time() - self._cpu, time.perf_counter() - self._start)
        return ended

    def stop(self) -> None:
        """Ends the load early."""
        with self._lock:
            self._stopping = True
            self._due.clear()
            self._lock.notify_all()

    def result(self) -> dict[str, Any]:
        """The results, once the load has ended."""
        kinds = [
            {"latency": sorted(latency.items()), "failures": sorted(failures.items()), "codes": codes, "bytes": size}
            for latency, failures, codes, size in zip(
                self._latency, self._failures, self._codes, self._bytes, strict=True
            )
        ]
        cpu, wall = self._spent
        lag = sorted(self._lag.items())
        return {"kinds": kinds, "lag": lag, "texts": list(self._texts.items()), "cpu": [cpu], "wall": [wall]}

    def _call_again(self, connection: RestConnection) -> None:
        end = self._start + self._plan["warmup"] + self._plan["seconds"]
        while not self._stopping and (now := time.perf_counter()) < end:
            if self._call(connection, now - self._start, self._choose(), closed=True) == UNAVAILABLE:
                time.sleep(PAUSE)
        connection.close()

    def _call_when_due(self, connection: RestConnection) -> None:
        while True:
            with self._lock:
                while not self._due and not self._stopping:
                    self._lock.wait()
                if not self._due:
                    break
                offset, kind = self._due.popleft()
            self._call(connection, offset, kind, closed=False)
        connection.close()

    def _pace(self) -> None:
        for offset, kind in self._arrivals():
            due = self._start + offset
            with self._lock:
                # Not a plain sleep, so that `stop` can end it.
                self._lock.wait_for(lambda: self._stopping, max(0.0, due - time.perf_counter()))
                if self._stopping:
                    return
                self._due.append((offset, kind))
                self._lock.notify()
        with self._lock:
            self._stopping = True
            self._lock.notify_all()

    def _arrivals(self) -> Iterator[tuple[float, int]]:
        """When calls begin, in seconds since the start, and their kinds."""
        if self._plan["times"]:
            yield from zip(self._plan["times"], self._plan["order"], strict=True)
            return
        rate, at, end = self._plan["rate"], 0.0, self._plan["warmup"] + self._plan["seconds"]
        number = 0
        while True:
            number += 1
            at = at + self._random.expovariate(rate) if self._plan["poisson"] else (number - 1) / rate
            if at >= end:
                return
            yield at, self._choose()

    def _choose(self) -> int:
        if len(self._kinds) == 1:
            return 0
        return self._random.choices(range(len(self._kinds)), [weight for weight, _ in self._kinds])[0]

    def _call(self, connection: RestConnection, offset: float, kind: int, *, closed: bool) -> int:
        due = self._start + offset
        with self._lock:
            self._begun += 1
            requests = self._kinds[kind][1]
            request = requests[self._turns[kind] % len(requests)]
            self._turns[kind] += 1
        begun = time.perf_counter()
        code, body = connection.send(request)
        ended = time.perf_counter()
        counted = ended - self._start if closed else offset
        with self._lock:
            self._ended += 1
            if code:
                self._failed += 1
                self._texts.setdefault(code, words(body))
            if self._plan["warmup"] <= counted < self._plan["warmup"] + self._plan["seconds"]:
                self._codes[kind][code] += 1
                self._lag[_rounded(begun - due)] += 1
                if code:
                    self._failures[kind][_rounded(ended - begun)] += 1
                else:
                    self._latency[kind][_rounded(ended - due)] += 1
                    self._bytes[kind] += len(body)
        return code


def _rounded(seconds: float) -> int:
    """A duration in nanoseconds, rounded to `_DIGITS` digits."""
    return int(float(f"{max(0.0, seconds) * 1e9:.{_DIGITS - 1}e}"))

"""Measures models through headrace's own batcher under a load: rows per second, and the time of the slowest calls."""

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from headrace_batching import BatchThreads, Options, Scheduler
from headrace_batching.cpus import schedulable_cpus
from headrace_batching.task import Arrays
from headrace_toolkit.errors import ToolkitError, first_line

ROUNDS = 3
"""The number of turns of each variant."""

SIZES = (4, 16, 64, 256)
"""The batch sizes to try, up to the number of calls in flight."""

_SLOWEST = 0.99

Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How calls become batches.

    Attributes:
        threads: The number of concurrent batches, each on one thread.
        size: The maximum number of rows of a batch.
    """

    threads: int
    size: int

    def text(self) -> str:
        """The setting as a file of TensorFlow Serving's batching parameters."""
        return f"max_batch_size {{ value: {self.size} }}\nnum_batch_threads {{ value: {self.threads} }}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The results of a load.

    Attributes:
        rows: The number of rows answered per second.
        p99_ms: The 99th percentile of the calls' times in milliseconds.
        cpu_us: Microseconds of CPU time per row, including batching; other load on the machine hardly changes it.
        setting: How the calls were batched.
    """

    rows: float
    p99_ms: float
    cpu_us: float
    setting: Setting

    def document(self) -> dict[str, Any]:
        """The data for JSON."""
        return {"rows_per_second": round(self.rows, 1), "p99_ms": round(self.p99_ms, 3),
                "cpu_us_per_row": round(self.cpu_us, 3),
                "num_batch_threads": self.setting.threads, "max_batch_size": self.setting.size}  # fmt: skip

    def __str__(self) -> str:
        return f"{self.rows:,.0f} rows/s at a p99 of {self.p99_ms:.3g} ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load of calls of one row each, a fixed number of which is in flight: when one is answered, the next begins.

    Attributes:
        calls: The number of calls in flight.
        rows: The inputs of one call each, used in turn.
        seconds: The duration of a measurement.
        clock: Returns seconds.
        cpu: Returns the CPU seconds of the process.
    """

    calls: int
    rows: Sequence[Arrays]
    seconds: float
    clock: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


def standard(calls: int) -> Setting:
    """The setting that variants are compared with: as many threads as CPUs, and batches of all calls in flight."""
    return Setting(threads=schedulable_cpus(), size=calls)


def settings(calls: int) -> list[Setting]:
    """The settings to try."""
    sizes = sorted({min(size, calls) for size in SIZES})
    return [Setting(threads=threads, size=size) for threads in sorted({1, schedulable_cpus()}) for size in sizes]


def serve_in_turns(runs: Mapping[str, Run], load: Load, setting: Setting) -> dict[str, Served]:
    """Lets variants take turns under a load; returns the median of their rounds, by name.

    Args:
        runs: Each runs one variant on any number of rows, on any thread, several at the same time.
        load: The load. All variants together take its seconds.
        setting: How they are batched.

    Raises:
        ToolkitError: A run failed.
    """
    part = load.seconds / ROUNDS / len(runs)
    rounds = [{name: serve(run, load, setting, part) for name, run in runs.items()} for _ in range(ROUNDS)]
    return {
        name: Served(
            rows=statistics.median(one[name].rows for one in rounds),
            p99_ms=statistics.median(one[name].p99_ms for one in rounds),
            cpu_us=statistics.median(one[name].cpu_us for one in rounds),
            setting=setting,
        )
        for name in runs
    }


def best_setting(run: Run, load: Load) -> Served:
    """The setting that serves the most rows; of those within a twentieth of it, the one with the lowest latency.

    Raises:
        ToolkitError: A run failed.
    """
    tried = settings(load.calls)
    found = [serve(run, load, setting, load.seconds / len(tried)) for setting in tried]
    most = max(one.rows for one in found)
    return min((one for one in found if one.rows >= 0.95 * most), key=lambda one: one.p99_ms)


def serve(run: Run, load: Load, setting: Setting, seconds: float) -> Served:
    """Puts one model under a load for some seconds.

    Raises:
        ToolkitError: A run failed.
    """
    threads = BatchThreads(setting.threads)
    options = Options(max_batch_size=setting.size, num_batch_threads=setting.threads,
                      max_enqueued_batches=load.calls)  # fmt: skip
    threads.start()
    scheduler = Scheduler(threads, run, options)
    try:
        callers = _Callers(scheduler, load, seconds)
        return callers.served(setting)
    finally:
        scheduler.close()
        threads.close()


class _Callers:
    """The callers of one measurement. They run on the batch threads: each answer lets its thread send the next call."""

    def __init__(self, scheduler: Scheduler, load: Load, seconds: float) -> None:
        self._scheduler = scheduler
        self._load = load
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._under_way = load.calls
        self._taken: list[float] = []
        self._error: BaseException | None = None
        self._began = load.clock()
        self._cpu_before = load.cpu()
        self._until = self._began + seconds

    def served(self, setting: Setting) -> Served:
        """The results, once the last call is answered."""
        for number in range(self._load.calls):
            self._send(number)
        self._ended.wait()
        if self._error is not None:
            raise ToolkitError(f"a run under load failed: {first_line(self._error)}") from self._error
        took, cpu = self._load.clock() - self._began, self._load.cpu() - self._cpu_before
        slowest = sorted(self._taken)[min(len(self._taken) - 1, int(_SLOWEST * len(self._taken)))]
        count = len(self._taken)
        return Served(rows=count / took, p99_ms=slowest * 1e3, cpu_us=cpu / count * 1e6, setting=setting)

    def _send(self, number: int) -> None:
        began = self._load.clock()
        inputs = self._load.rows[number % len(self._load.rows)]
        self._scheduler.call(inputs).add_done_callback(lambda answer: self._answered(number, began, answer))

    def _answered(self, number: int, began: float, answer: "Future[Arrays]") -> None:
        now = self._load.clock()
        with self._lock:
            self._error = self._error or answer.exception()
            self._taken.append(now - began)
            goes_on = now < self._until and self._error is None
            self._under_way -= 0 if goes_on else 1
            last = self._under_way == 0
        if goes_on:
            self._send(number + self._load.calls)
        elif last:
            self._ended.set()

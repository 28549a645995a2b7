"""Loads a real server from idle to twice its capacity, with an objective and with fixed settings in turn."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import headrace_native
import numpy as np

from headrace_client.bench.latencies import Latencies, of_nanoseconds, together
from headrace_client.bench.settings import MOST_UNDER_WAY
from headrace_protos import PredictRequest
from headrace_protos.tensor import to_proto
from tests.support.calls import MODEL, PREDICT
from tests.support.latency.simulation import Model
from tests.support.latency.sweep import Fixed
from tests.support.running import ServerProcess

Send = Callable[..., Awaitable[bytes]]

OBJECTIVE, SECONDS = "p99 150ms", 0.150

REFUSED_WITHIN = 0.005
"""Seconds within which 99 of 100 refusals must arrive."""

LEAST_GOODPUT = 0.95
"""The smallest allowed result of `_least`."""

MODEL_OF = Model(noise=0.0, stalls=0.0)
"""The timing of the served model: it sleeps, which leaves the CPUs to the client."""

_CODE = f"""
import time

INPUTS = {{"x": ("float32", [None, 4])}}
OUTPUTS = {{"y": ("float32", [None, 4])}}


def predict(inputs):
    time.sleep({MODEL_OF.fixed} + {MODEL_OF.per_row} * len(inputs["x"]))
    return {{"y": inputs["x"]}}
"""

_TOML = f"""[batching]
enabled = true

[isolation]
workers = {MODEL_OF.threads}
"""


@dataclass(frozen=True, slots=True)
class Ramp:
    """The parameters of a ramp.

    Attributes:
        seconds: The length with the objective.
        fixed_seconds: The length with each fixed setting.
        steps: The number of rates, the last of which is twice the capacity.
        transport: The server's transport.
    """

    seconds: float
    fixed_seconds: float
    steps: int
    transport: str

    @property
    def rates(self) -> list[float]:
        """The requests per second of each step."""
        most = 2 * MODEL_OF.capacity(SECONDS)
        return [most * (step + 1) / self.steps for step in range(self.steps)]


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one rate.

    Attributes:
        seconds: The length of the step.
        answered: Latencies of the answers, from when a request was due, not from when it was sent.
        refused: The seconds that refusals took, from when the request was sent.
        failed: The number of calls that ended otherwise.
    """

    seconds: float
    answered: Latencies
    refused: Latencies
    failed: int

    @property
    def sent(self) -> int:
        """The number of answered and refused requests."""
        return self.answered.count + self.refused.count

    @property
    def good(self) -> int:
        """The number of requests that were answered in time."""
        return self.answered.within(SECONDS)

    @property
    def good_rate(self) -> float:
        """The number of requests per second that were answered in time."""
        return self.good / self.seconds


def ramp(plan: Ramp, fixed: Sequence[str], out: Path) -> int:
    """Runs the ramp with the objective and with each setting; returns 1 if the objective is not kept."""
    flags = [f"--latency_objective={OBJECTIVE}", "--batching_parameters_file={}"]
    runs = {OBJECTIVE: _run(plan, plan.seconds, flags, None)}
    for text in fixed:
        setting = Fixed(*map(int, text.split("/")))
        runs[str(setting)] = _run(plan, plan.fixed_seconds, flags[1:], setting)
    text = _report(plan, runs)
    (out / f"latency-objective-{plan.transport}.md").write_text(text)
    print(text)
    return 0 if _kept(runs) else 1


def record(seconds: float) -> int:
    """Records the arrivals at a server: of callers who wait for their answers, and of others who do not."""
    from tests.support.latency.arrivals import RECORDED

    arrivals = asyncio.run(_crowd(seconds))
    np.savez_compressed(RECORDED, times=np.array(arrivals, np.float32), rows=np.ones(len(arrivals), np.uint8))
    print(f"{len(arrivals)} arrivals: {RECORDED}")
    return 0


def _run(plan: Ramp, seconds: float, flags: Sequence[str], setting: Fixed | None) -> list[Step]:
    with tempfile.TemporaryDirectory(prefix="headrace-objective-") as folder:
        parameters = Path(folder) / "batching.pbtxt"
        parameters.write_text(_parameters(setting))
        filled = [flag.format(parameters) for flag in flags]
        with _served(Path(folder) / "model", f"--transport={plan.transport}", *filled) as port:
            return _ramp(f"127.0.0.1:{port}", plan.rates, seconds / plan.steps)


@contextmanager
def _served(base_path: Path, *flags: str) -> Iterator[int]:
    """The port of a server with the model."""
    version = base_path / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_CODE)
    (base_path / "model.toml").write_text(_TOML)
    server = ServerProcess(base_path, *flags)
    try:
        caller = server.started()
        caller.close()
        yield caller.port
    finally:
        server.close()


def _request() -> bytes:
    request = PredictRequest()
    request.model_spec.name = MODEL
    to_proto(np.zeros((1, 4), np.float32), request.inputs["x"])
    return request.SerializeToString()


def _parameters(setting: Fixed | None) -> str:
    threads = f"num_batch_threads {{ value: {MODEL_OF.threads} }}\n"
    if setting is None:
        return threads + "max_batch_size { value: 256 }\n"
    return threads + (
        f"max_batch_size {{ value: {setting.size} }}\nbatch_timeout_micros {{ value: {setting.timeout} }}\n"
        f"max_enqueued_batches {{ value: {setting.waiting} }}\n"
    )


def _ramp(target: str, rates: Sequence[float], seconds: float) -> list[Step]:
    """Sends calls at each rate in turn, for this many seconds each."""
    kinds = [(1.0, [headrace_native.ClientRequest(PREDICT, _request())])]
    steps = []
    for number, rate in enumerate(rates):
        load = headrace_native.Load(target, kinds, _open_loop(rate, seconds, seed=number))
        load.start([])
        while not load.wait(60.0):
            pass
        steps.append(_step(seconds, load.result()))
    return steps


def _open_loop(rate: float, seconds: float, seed: int) -> "headrace_native.LoadPlan":
    return {
        "threads": 1,
        "connections": 4,
        "concurrency": MOST_UNDER_WAY,
        "rate": rate,
        "poisson": True,
        "times": [],
        "order": [],
        "warmup": 0.0,
        "seconds": seconds,
        "timeout": 30.0,
        "seed": seed,
    }


def _step(seconds: float, result: "headrace_native.LoadResult") -> Step:
    (kind,) = result["kinds"]
    ok, unavailable = kind["codes"][0], kind["codes"][grpc.StatusCode.UNAVAILABLE.value[0]]
    return Step(
        seconds=seconds,
        answered=of_nanoseconds(kind["latency"]),
        refused=of_nanoseconds(kind["failures"]),
        failed=sum(kind["codes"]) - ok - unavailable,
    )


async def _crowd(seconds: float) -> list[float]:
    """The times at which calls begin: 12 callers wait for answers and pause, others send independent bursts."""
    draws, data = np.random.default_rng(3), _request()
    began, arrivals = time.perf_counter(), list[float]()
    with tempfile.TemporaryDirectory(prefix="headrace-objective-") as folder, _served(Path(folder) / "model") as port:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            send: Send = channel.unary_unary(PREDICT)
            await send(data)
            began = time.perf_counter()

            async def call() -> None:
                arrivals.append(time.perf_counter() - began)
                await send(data)

            async def caller(pause: float) -> None:
                while time.perf_counter() - began < seconds:
                    await call()
                    await asyncio.sleep(float(draws.exponential(pause)))

            async def strangers() -> None:
                while time.perf_counter() - began < seconds:
                    await asyncio.gather(*(call() for _ in range(int(draws.geometric(1 / 20)))))
                    await asyncio.sleep(float(draws.exponential(0.1)))

            await asyncio.gather(*(caller(0.02) for _ in range(12)), strangers(), strangers())
    return sorted(arrivals)


def _kept(runs: dict[str, list[Step]]) -> bool:
    ours = runs[OBJECTIVE]
    return (
        _milliseconds(together(step.answered for step in ours), 99) <= 1.05e3 * SECONDS
        and _milliseconds(together(step.refused for step in ours), 99) <= 1e3 * REFUSED_WITHIN
        and _least(runs) >= LEAST_GOODPUT
    )


def _report(plan: Ramp, runs: dict[str, list[Step]]) -> str:
    ours = runs[OBJECTIVE]
    taken, refused = together(step.answered for step in ours), together(step.refused for step in ours)
    head = ["requests/s", "p99", "refused/s", "refusals: median, p99", *(f"in time/s: {name}" for name in runs)]
    rows = [_row([run[place] for run in runs.values()]) for place in range(len(ours))]
    table = "\n".join([f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}", *rows])
    return f"""# A latency objective on a real server

Made by `python -m scripts.objective ramp --transport={plan.transport}`. Poisson arrivals rise from idle to twice
the capacity, in {plan.steps} steps: in {plan.seconds:g} s with the objective `{OBJECTIVE}`, and in
{plan.fixed_seconds:g} s with each fixed setting (`max_batch_size`, `batch_timeout_micros`, `max_enqueued_batches`).
For each batch, the model sleeps for {MODEL_OF.fixed * 1e3:g} ms plus {MODEL_OF.per_row * 1e3:g} ms per row; it runs in
two processes. Latencies are the client's, counted from when a request was due; refusals are counted from when a request
was sent.

{table}

Over the whole ramp the p99 of the answers is {_milliseconds(taken, 99):.0f} ms, and refusals took
{_milliseconds(refused, 50):.2f} ms at the median and {_milliseconds(refused, 99):.2f} ms at the p99. Calls that failed
otherwise: {sum(step.failed for step in ours)}. At every step the objective has at least {_least(runs):.3f} times as
many answers in time as the best setting (or as there were requests, if their number was lower).
"""


def _row(steps: Sequence[Step]) -> str:
    ours = steps[0]
    refused = f"{_milliseconds(ours.refused, 50):.2f}, {_milliseconds(ours.refused, 99):.2f} ms"
    cells = [
        f"{ours.sent / ours.seconds:,.0f}",
        f"{_milliseconds(ours.answered, 99):.0f} ms",
        f"{ours.refused.count / ours.seconds:,.0f}",
        refused if ours.refused.count else "",
        *(f"{step.good_rate:,.0f}" for step in steps),
    ]
    return f"| {' | '.join(cells)} |"


def _least(runs: dict[str, list[Step]]) -> float:
    """The share of the possible answers in time that the objective reaches, at its worst step.

    The number of possible answers is that of the best fixed setting, or that of the requests in the objective's own
    run, if there were fewer: arrivals are random.
    """
    others = [run for name, run in runs.items() if name != OBJECTIVE]
    best = [max((run[place].good_rate for run in others), default=0.0) for place in range(len(runs[OBJECTIVE]))]
    shares = [
        step.good_rate / min(most, step.sent / step.seconds)
        for step, most in zip(runs[OBJECTIVE], best, strict=True)
        if most and step.sent
    ]
    return min(shares, default=1.0)


def _milliseconds(latencies: Latencies, percent: float) -> float:
    return (latencies.percentile(percent) or 0.0) * 1e3

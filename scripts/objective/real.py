"""A real server under a ramp from idle to twice its capacity, with an objective and with fixed settings in turn."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from headrace_protos import PredictRequest
from headrace_protos.tensor import to_proto
from tests.support.calls import MODEL, PREDICT
from tests.support.latency.simulation import Model
from tests.support.latency.sweep import Fixed
from tests.support.running import ServerProcess

Send = Callable[..., Awaitable[bytes]]

OBJECTIVE, SECONDS = "p99 150ms", 0.150

MODEL_OF = Model(noise=0.0, stalls=0.0)
"""What the served model takes: it sleeps, so that the client has the CPUs."""

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
    """What is sent.

    Attributes:
        seconds: How long.
        steps: Rates, the last of which is twice the capacity.
        transport: The server's.
    """

    seconds: float
    steps: int
    transport: str

    @property
    def rates(self) -> list[float]:
        """Requests a second of each step."""
        most = 2 * MODEL_OF.capacity(SECONDS)
        return [most * (step + 1) / self.steps for step in range(self.steps)]


@dataclass(slots=True)
class Step:
    """What came of one rate. Latencies count from when a request was due, not from when it was sent."""

    rate: float
    sent: int = 0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def good(self) -> int:
        """Answered in time."""
        return sum(took <= SECONDS for took in self.answered)


def ramp(plan: Ramp, fixed: Sequence[str], out: Path) -> int:
    """Runs the ramp with the objective and with each setting; 1 where the objective is not kept."""
    runs = {OBJECTIVE: _run(plan, [f"--latency_objective={OBJECTIVE}", "--batching_parameters_file={}"], None)}
    for text in fixed:
        setting = Fixed(*map(int, text.split("/")))
        runs[str(setting)] = _run(plan, ["--batching_parameters_file={}"], setting)
    text = _report(plan, runs)
    (out / f"latency-objective-{plan.transport}.md").write_text(text)
    print(text)
    return 0 if _kept(runs) else 1


def record(seconds: float) -> int:
    """Records the arrivals that a server sees: callers who wait for their answers, and others who do not."""
    from tests.support.latency.arrivals import RECORDED

    arrivals = asyncio.run(_crowd(seconds))
    np.savez_compressed(RECORDED, times=np.array(arrivals, np.float32), rows=np.ones(len(arrivals), np.uint8))
    print(f"{len(arrivals)} arrivals: {RECORDED}")
    return 0


def _run(plan: Ramp, flags: Sequence[str], setting: Fixed | None) -> list[Step]:
    with tempfile.TemporaryDirectory(prefix="headrace-objective-") as folder:
        parameters = Path(folder) / "batching.pbtxt"
        parameters.write_text(_parameters(setting))
        told = [flag.format(parameters) for flag in flags]
        with _served(Path(folder) / "model", f"--transport={plan.transport}", *told) as port:
            return asyncio.run(_ramp(port, plan))


@contextmanager
def _served(base_path: Path, *flags: str) -> Iterator[int]:
    """The port of a server of the model."""
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


async def _ramp(port: int, plan: Ramp) -> list[Step]:
    draws, data = np.random.default_rng(1), _request()
    steps = [Step(rate) for rate in plan.rates]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        send: Send = channel.unary_unary(PREDICT)
        await send(data)  # connects
        under_way: set[asyncio.Task[None]] = set()
        due = time.perf_counter()
        for step in steps:
            end = due + plan.seconds / plan.steps
            while (due := due + float(draws.exponential(1 / step.rate))) < end:
                if (early := due - time.perf_counter()) > 0:
                    await asyncio.sleep(early)
                call = asyncio.create_task(_call(send, data, step, due))
                under_way.add(call)
                call.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)
    return steps


async def _call(send: Send, data: bytes, step: Step, due: float) -> None:
    step.sent += 1
    began = time.perf_counter()
    try:
        await send(data, timeout=30.0)
        step.answered.append(time.perf_counter() - due)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            step.refused.append(time.perf_counter() - began)
        else:
            step.failed += 1


async def _crowd(seconds: float) -> list[float]:
    """When calls begin, of 12 callers who wait for answers and pause, and of strangers in bursts."""
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
    taken = [took for step in ours for took in step.answered]
    if not taken or float(np.quantile(taken, 0.99)) > 1.05 * SECONDS:
        return False
    others = [run for name, run in runs.items() if name != OBJECTIVE]
    return all(
        step.good >= 0.95 * max((run[place].good for run in others), default=0) for place, step in enumerate(ours)
    )


def _report(plan: Ramp, runs: dict[str, list[Step]]) -> str:
    ours = runs[OBJECTIVE]
    part = plan.seconds / plan.steps
    taken = [took for step in ours for took in step.answered]
    refused = [took for step in ours for took in step.refused]
    head = ["requests/s", "p99", "refused/s", "refusals: median, p99", *(f"in time/s: {name}" for name in runs)]
    rows = []
    for place, step in enumerate(ours):
        cells = [
            f"{step.sent / part:,.0f}",
            f"{_quantile(step.answered, 0.99):.0f} ms",
            f"{len(step.refused) / part:,.0f}",
            f"{_quantile(step.refused, 0.5):.1f}, {_quantile(step.refused, 0.99):.1f} ms" if step.refused else "",
            *(f"{run[place].good / part:,.0f}" for run in runs.values()),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    table = "\n".join([f"| {' | '.join(head)} |", f"|{' ---: |' * len(head)}", *rows])
    return f"""# A latency objective on a real server

Made by `python -m scripts.objective ramp --transport={plan.transport}`: {plan.seconds:g} s from idle to twice the
capacity, in {plan.steps} steps, Poisson arrivals, once with the objective `{OBJECTIVE}` and once with each fixed
setting (`max_batch_size`, `batch_timeout_micros`, `max_enqueued_batches`). The model sleeps for
{MODEL_OF.fixed * 1e3:g} ms and {MODEL_OF.per_row * 1e3:g} ms for each row, in two processes. Latencies are the
client's, counted from when a request was due.

{table}

Over the whole ramp the p99 of the answers is {_quantile(taken, 0.99):.0f} ms, and refusals took
{_quantile(refused, 0.5):.2f} ms at the median and {_quantile(refused, 0.99):.2f} ms at the p99. Calls that failed
otherwise: {sum(step.failed for step in ours)}. In time over the whole ramp:
{", ".join(f"{name}: {sum(step.good for step in run):,}" for name, run in runs.items())}.
"""


def _quantile(values: Sequence[float], share: float) -> float:
    return float(np.quantile(values, share)) * 1e3 if values else 0.0

"""Compares the Open Inference Protocol with Predict, and with a Triton if one is given."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from . import infer_requests
from .cases import CASES, Case, Load
from .contenders import headrace_command
from .figures import figure
from .infer_requests import Request, infer, infer_shared, predict, rest_binary, rest_json
from .load import Caller, post
from .measure import Budget
from .ort_loop import Loop
from .process import Server, running
from .requests import PREFIX_BYTES, framed
from .targets import Verdict, at_least, at_most
from .triton import Triton

HEADRACE = "headrace"
TRITON = "Triton"

Make = Callable[[Case, np.ndarray], Request]


@dataclass(frozen=True)
class Way:
    """How a row and its answer are transferred.

    Attributes:
        title: The name of this way in the report.
        make: Makes the request.
        case: The called model.
        load: The load; over HTTP with one request in flight per connection.
        by_triton: Whether a Triton is measured with the same requests.
        is_shared: Whether the row is in shared memory.
    """

    title: str
    make: Make
    case: Case
    load: Load
    by_triton: bool = True
    is_shared: bool = False


_SMALL, _IMAGE = (next(case for case in CASES if case.name == name) for name in ("small", "image"))
_HTTP = Load(connections=64, streams=1)

PREDICT = Way("small, Predict", predict, _SMALL, _SMALL.load, by_triton=False)
INFER = Way("small, ModelInfer", infer, _SMALL, _SMALL.load)
JSON = Way("small, JSON over REST", rest_json, _SMALL, _HTTP)
BINARY = Way("small, bytes over REST", rest_binary, _SMALL, _HTTP)
IMAGE_PREDICT = Way("602 KB, Predict", predict, _IMAGE, _IMAGE.load, by_triton=False)
IMAGE = Way("602 KB, ModelInfer", infer, _IMAGE, _IMAGE.load)
SHARED = Way("602 KB, ModelInfer from shared memory", infer_shared, _IMAGE, _IMAGE.load, is_shared=True)

WAYS = (PREDICT, INFER, JSON, BINARY, IMAGE_PREDICT, IMAGE, SHARED)


@dataclass(frozen=True)
class Sample:
    """The figures of one load.

    Attributes:
        requests_per_second: The number of requests per second.
        cpu_us: The user and system time per request of the server and its child processes, in microseconds.
        own_cpu_us: The same of the server's process alone: a Triton's Python backend runs its model in another process.
    """

    requests_per_second: float
    cpu_us: float
    own_cpu_us: float


@dataclass(frozen=True)
class Infers:
    """All samples, one per round, by way and by server."""

    samples: dict[Way, dict[str, list[Sample]]] = field(default_factory=dict)


def measure_infers(triton: Triton | None, budget: Budget, folder: Path) -> Infers:
    """Measures the servers in turn, round after round."""
    infers = Infers()
    benches = {case.name: _Bench(case, triton, folder / case.name) for case in (_SMALL, _IMAGE)}
    for _ in range(budget.rounds):
        for way in WAYS:
            for server in (HEADRACE, TRITON) if triton and way.by_triton else (HEADRACE,):
                print(f"measuring {way.title}, {server}", file=sys.stderr, flush=True)
                sample = benches[way.case.name].sample(way, server, budget.seconds)
                infers.samples.setdefault(way, {}).setdefault(server, []).append(sample)
    return infers


class _Bench:
    """A model on disk, and the correct answer to one row."""

    def __init__(self, case: Case, triton: Triton | None, folder: Path) -> None:
        folder.mkdir()
        self._case = case
        self._triton = triton
        self._folder = folder
        self._base_path = folder / "model"
        self._row = case.rows(1)
        self._expected = Loop(case, case.save(self._base_path)).answer(self._row)

    def sample(self, way: Way, server: str, seconds: float) -> Sample:
        """Starts a server, loads it for about this many seconds, and stops it."""
        request = way.make(self._case, self._row)
        commands = {HEADRACE: self._headrace, TRITON: self._triton_command}
        with ExitStack() as stack:
            register = stack.enter_context(infer_requests.shared(self._row)) if way.is_shared else None
            command = partial(commands[server], request.over_http)
            process = stack.enter_context(running(command, self._folder / "server.log"))
            if register is not None:
                register(process.address)
            size = request.checked(process.address, self._expected)
            sample = _loaded(process, self._load(process, request, way.load, size), way.load, seconds)
            request.checked(process.address, self._expected)
        return sample

    def _load(self, server: Server, request: Request, load: Load, size: int) -> Callable[[int], float]:
        """Sends this many requests, and returns the number per second."""
        body = self._folder / "body"
        body.write_bytes(request.body if request.over_http else framed(request.body))
        if request.over_http:
            url = f"http://{server.address}{request.path}"
            return lambda count: post(url, body, load.connections, count, request.headers)
        caller = Caller(server.address, body, size + PREFIX_BYTES, load, request.path)
        return lambda count: caller.run(count).requests_per_second

    def _headrace(self, over_http: bool, port: int) -> Sequence[str]:
        command = headrace_command("native", self._case, self._base_path, port)
        if over_http:
            command = [part.replace("--port=", "--rest_api_port=") for part in command] + ["--port=0"]
        return [*command, "--open_inference_admin=write"]

    def _triton_command(self, over_http: bool, port: int) -> Sequence[str]:
        assert self._triton is not None  # requests to Triton are only measured if there is one
        used, other = ("http", "grpc") if over_http else ("grpc", "http")
        ports = [f"--{used}-port={port}", f"--allow-{other}=false"]
        return self._triton.command(self._case, self._base_path, ports)


def _loaded(server: Server, run: Callable[[int], float], load: Load, seconds: float) -> Sample:
    count = load.connections * load.streams
    started = time.monotonic()
    rate = run(count)
    while time.monotonic() - started < seconds / 3:
        count = round(min(10 * count, max(count, rate * seconds / 4)))
        rate = run(count)
    count = max(load.connections * load.streams, round(rate * seconds))
    family, own = server.family_cpu_seconds(), server.cpu_seconds()
    rate = run(count)
    family, own = server.family_cpu_seconds() - family, server.cpu_seconds() - own
    return Sample(rate, family / count * 1e6, own / count * 1e6)


def rate(samples: Iterable[Sample]) -> float:
    """Returns the median of the requests per second."""
    return median(sample.requests_per_second for sample in samples)


def cpu(samples: Iterable[Sample]) -> float:
    """Returns the median CPU of a request, in microseconds."""
    return median(sample.cpu_us for sample in samples)


def infer_verdicts(infers: Infers) -> Iterator[Verdict]:
    """Yields the targets, without those for a Triton if there was none."""
    ours = {way: servers[HEADRACE] for way, servers in infers.samples.items()}
    if not ours:
        return
    for one, other in ((INFER, PREDICT), (IMAGE, IMAGE_PREDICT)):
        what = f"{one.title}: CPU per request, relative to Predict"
        yield at_most(what, 1.05, cpu(ours[one]) / cpu(ours[other]))
    more = rate(ours[SHARED]) / rate(ours[IMAGE])
    yield at_least("602 KB: requests/s from shared memory, relative to the socket", 3, more)
    for way, least, most in ((INFER, 4, 0.25), (IMAGE, 1.5, 0.7), (JSON, 2, 0.5)):
        servers = infers.samples[way]
        if TRITON in servers:
            more = rate(servers[HEADRACE]) / rate(servers[TRITON])
            yield at_least(f"{way.title}: requests/s, relative to Triton", least, more)
            yield at_most(f"{way.title}: CPU, relative to Triton", most, cpu(servers[HEADRACE]) / cpu(servers[TRITON]))


def infer_rows(infers: Infers) -> Iterator[tuple[str, ...]]:
    """Yields a row of the report for each way and server."""
    for way, servers in infers.samples.items():
        for server, samples in servers.items():
            own = median(sample.own_cpu_us for sample in samples)
            yield (f"{way.title}: {server}", str(way.load), figure(rate(samples)), figure(cpu(samples)), figure(own))

"""Measures servers by `headrace bench` and by h2load, ghz and perf_analyzer in turn, and compares the rates.

    python -m scripts.load_beside_others [--rounds=3] [--ghz=ghz] [--perf_analyzer=COMMAND] [--out=FILE]

The machine should have nothing else to do. The server has the first CPU, and the load generators the others, so that
they do not limit it. A tool that is not installed is left out. Exits with status 1 if rates differ by more than 5%.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from headrace_client import request
from headrace_client.bench.points import Point
from headrace_client.bench.running import run
from headrace_client.bench.settings import Settings, Stage
from scripts.bench import infer_requests
from scripts.bench.cases import Load
from scripts.bench.load import PREDICT, Caller
from scripts.bench.process import running
from scripts.bench.requests import framed

ROUNDS, SECONDS = 3, 3
MOST_DIFFERENCE = 0.05
CONNECTIONS = 4

WINDOW_MS = 1000
"""The length of one measurement of perf_analyzer, which makes three."""

_DIGITS = Path(__file__).parents[1] / "models" / "digits"
_SLOW = """
import time

INPUTS = {"x": ("float32", [None, 64])}
OUTPUTS = {"y": ("float32", [None, 64])}


def predict(inputs):
    time.sleep(0.005)
    return {"y": inputs["x"]}
"""
_PERF_ANALYZER = re.compile(r"Throughput: ([\d.]+) infer/sec")


@dataclass(frozen=True, slots=True)
class Case:
    """A load on a server.

    Attributes:
        model: The model's name.
        target: The server's address.
        message: A file with the request.
        stage: When calls are sent, as for `headrace bench`.
    """

    model: str
    target: str
    message: Path
    stage: Stage

    def __str__(self) -> str:
        return f"{self.model}, {self.stage}"


Tool = Callable[[Case, int], float]
"""Makes a number of calls, and returns how many there were per second."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The median rates of a case with `headrace bench` and another tool, and the CPU time of the former per call."""

    case: Case
    tool: str
    ours: float
    theirs: float
    own_cpu: float

    @property
    def ratio(self) -> float:
        """Our rate divided by that of the other tool."""
        return self.ours / self.theirs

    def row(self) -> str:
        """The result as a row of a table."""
        cells = (f"{self.ours:,.0f}", f"{self.theirs:,.0f}", f"{self.ratio:.3f}", f"{self.own_cpu * 1e6:.1f} us")
        return f"| {self.case} | {self.tool} | {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS)
    parser.add_argument("--ghz", default="ghz")
    parser.add_argument("--perf_analyzer", default="perf_analyzer")
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    options = parser.parse_args(arguments)
    tools: dict[str, tuple[str, Tool]] = {
        "h2load": ("h2load", _h2load),
        "ghz": (options.ghz, partial(_ghz, options.ghz)),
        "perf_analyzer": (shlex.split(options.perf_analyzer)[0], partial(_perf_analyzer, options.perf_analyzer)),
    }
    found = {name: tool for name, (program, tool) in tools.items() if shutil.which(program)}
    with tempfile.TemporaryDirectory() as folder:
        compared = list(_compared(Path(folder), found, options.rounds, options.seconds))
    text = _page(compared)
    print(text)
    if options.out is not None:
        options.out.write_text(text)
    return int(any(abs(each.ratio - 1) > MOST_DIFFERENCE for each in compared))


def _compared(folder: Path, tools: dict[str, Tool], rounds: int, seconds: int) -> Iterator[Compared]:
    with _served(folder, "digits", _DIGITS, "image") as (target, message):
        for stage in (Stage("closed", 64), Stage("constant", 5000)):
            only = {"h2load": tools["h2load"]} if "h2load" in tools else {}  # the other tools would limit the load
            yield from _case(Case("digits", target, message, stage), only, rounds, seconds)
    version = folder / "slow" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_SLOW)
    with _served(folder, "slow", version.parent, "x", "--enable_batching=false") as (target, message):
        for stage in (Stage("closed", 8), Stage("constant", 100)):
            yield from _case(Case("slow", target, message, stage), tools, rounds, seconds)


@contextmanager
def _served(folder: Path, name: str, base: Path, alias: str, *flags: str) -> Iterator[tuple[str, Path]]:
    """Runs a server on the first CPU; yields its address, and a file with a request."""
    every = sorted(os.sched_getaffinity(0))
    program = str(Path(sys.executable).with_name("headrace"))

    def command(port: int) -> Sequence[str]:
        pinned = ["taskset", "-c", str(every[0])] if len(every) > 1 else []
        return [*pinned, program, "serve", str(base), f"--model_name={name}", f"--port={port}", *flags]

    message = folder / f"{name}.bin"
    call = request.predict(request.model_spec(name), {alias: np.zeros((1, 64), np.float32)}, ())
    message.write_bytes(call.message())
    with running(command, folder / f"{name}.log") as server:
        os.sched_setaffinity(0, every[1:] or every)
        try:
            yield server.address, message
        finally:
            os.sched_setaffinity(0, every)


def _case(case: Case, tools: dict[str, Tool], rounds: int, seconds: int) -> Iterator[Compared]:
    settings = Settings(
        servers=(case.target,), models={case.model: 1.0}, stages=(case.stage,), seconds=seconds, connections=CONNECTIONS
    )
    ours: list[Point] = []
    theirs: dict[str, list[float]] = {name: [] for name in tools}
    for _ in range(rounds):
        ours += run(settings, lambda *_: None)
        for name, tool in tools.items():
            theirs[name].append(tool(case, max(64, int(ours[-1].rate * seconds))))
    rate = statistics.median(point.rate for point in ours)
    cpu = statistics.median(point.cpu_per_call for point in ours)
    for name, rates in theirs.items():
        yield Compared(case, name, rate, statistics.median(rates), cpu)


def _h2load(case: Case, count: int) -> float:
    message = case.message.read_bytes()
    file = case.message.with_suffix(".framed")
    file.write_bytes(framed(message))
    answer = framed(infer_requests.call(case.target, PREDICT, message))
    stage = case.stage
    streams = int(stage.value) // CONNECTIONS if stage.kind == "closed" else 16
    # With a deadline, since the other tools send one, and a deadline costs the server time.
    more = ["-t", "1", "-H", "grpc-timeout: 10S"]
    if stage.kind == "constant":
        more.append(f"--rps={stage.value / CONNECTIONS:g}")
    caller = Caller(case.target, file, len(answer), Load(CONNECTIONS, streams), more=tuple(more))
    return caller.run(count).requests_per_second


def _ghz(program: str, case: Case, count: int) -> float:
    stage = case.stage
    callers = int(stage.value) if stage.kind == "closed" else 16
    shape = [f"--connections={CONNECTIONS}", f"--concurrency={callers}", f"--total={count}"]
    if stage.kind == "constant":
        shape.append(f"--rps={stage.value:g}")
    call = ["--insecure", f"--call={PREDICT.removeprefix('/')}", f"--binary-file={case.message}", "--format=json"]
    found = json.loads(_said([program, *call, *shape, case.target]))
    if found.get("errorDistribution"):
        raise SystemExit(f"ghz had errors: {found['errorDistribution']}")
    return float(found["rps"])


def _perf_analyzer(program: str, case: Case, count: int) -> float:
    del count
    stage = case.stage
    shape = f"--concurrency-range={stage.value:g}"
    if stage.kind == "constant":
        shape = f"--request-rate-range={stage.value:g}"
    # The number of requests is not set: perf_analyzer would divide it by a time that includes a second without
    # requests.
    windows = [f"--measurement-interval={WINDOW_MS}", "--stability-percentage=50"]
    call = ["-m", case.model, "-u", case.target, "-i", "grpc", "--shape=x:1,64", *windows, shape]
    said = _said([*shlex.split(program), *call])
    done = _PERF_ANALYZER.search(said)
    if done is None:
        raise SystemExit(f"the output of perf_analyzer has another form:\n{said}")
    return float(done[1])


def _said(command: Sequence[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{shlex.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def _page(compared: Sequence[Compared]) -> str:
    rows = "\n".join(each.row() for each in compared)
    return f"""# headrace bench and other load generators

Made by `python -m scripts.load_beside_others` on {os.cpu_count()} CPUs. The server runs on the first CPU, and the load
generators, which take turns, run on the rest. The model `digits` takes a few microseconds; the model `slow` sleeps for
5 ms and is not batched. The rates are medians. ghz and perf_analyzer only measure the slow model, since with `digits`
they would be the limit.

| load | tool | headrace bench, calls/s | tool, calls/s | ratio | own CPU of headrace bench per call |
| --- | --- | ---: | ---: | ---: | ---: |
{rows}
"""


if __name__ == "__main__":
    sys.exit(main())

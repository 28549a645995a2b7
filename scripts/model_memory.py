"""Calls 200 models of 20 MB on a server that may hold 1 GB of them: python -m scripts.model_memory [CALLS]."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event as EventClass
from pathlib import Path

import numpy as np
import onnx
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from headrace_client import Client
from headrace_protos import ModelServerConfig
from scripts.bench.machine import description
from scripts.bench.process import Server, running
from tests.support.caches import simulated_misses, zipf

COUNT = 200
CALLS = 2000
ROWS = 5_000_000 // 16
BOUND_MB = 1024
EXPONENT = 1.1
HOT = "hot"
HOT_SECONDS = 10.0
PAUSE_SECONDS = 0.002
WARM_UP_CALLS = 200
FILE_FACTOR = 1.2
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks" / "model_memory.md"


@dataclass(frozen=True, slots=True)
class Hot:
    """The seconds of each call of the hot model.

    Attributes:
        alone: Without other calls.
        busy: While another program keeps a core busy.
        beside: While the other models are called.
    """

    alone: Sequence[float]
    busy: Sequence[float]
    beside: Sequence[float]


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements.

    Attributes:
        failures: The number of calls that failed, or had a wrong answer.
        waits: The number of calls whose version was not in memory.
        simulated: The same number for a simulated cache of equal size.
        capacity: The number of models that fit.
        hot: The calls of the hot model.
        peak: The peak of the resident memory, in bytes.
        base: The resident memory before the first call, in bytes.
        seconds: The duration of all calls of all models.
    """

    failures: int
    waits: int
    simulated: int
    capacity: int
    hot: Hot
    peak: int
    base: int
    seconds: float


def main() -> int:
    """Measures, and writes the report; returns 1 if a call failed or the hit rate differs from the simulation's."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    machine = "\n\n".join(description())
    with tempfile.TemporaryDirectory(prefix="headrace-memory-") as folder:
        result = measure(Path(folder), calls)
    text = report(machine, calls, result)
    if calls == CALLS:
        REPORT.write_text(text)
    print(text)
    return 0 if not result.failures and abs(result.waits - result.simulated) <= 0.01 * calls else 1


def make_models(root: Path) -> None:
    """Writes the models: tables of 5 million floats, of which each call reads one row, and a small hot model."""
    file = root / "table.onnx"
    onnx.save_model(_table(ROWS), str(file))
    config = ModelServerConfig()
    for name in _names():
        (root / name / "1").mkdir(parents=True)
        os.link(file, root / name / "1" / "model.onnx")
        config.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
    (root / HOT / "1").mkdir(parents=True)
    onnx.save_model(_table(1000), str(root / HOT / "1" / "model.onnx"))
    config.model_config_list.config.add(name=HOT, base_path=str(root / HOT), model_platform="tensorflow")
    (root / "models.config").write_text(str(config))


def _table(rows: int) -> onnx.ModelProto:
    """`y` float [N, 16] = the rows `index` int64 [N] of a table; the first value of a row is its number."""
    table = np.zeros((rows, 16), np.float32)
    table[:, 0] = np.arange(rows)
    node = make_node("Gather", ["table", "index"], ["y"])
    values = [make_tensor_value_info("index", onnx.TensorProto.INT64, ["N"])]
    outputs = [make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 16])]
    graph = make_graph([node], "table", values, outputs, [from_array(table, "table")])
    return make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=9)


def _names() -> list[str]:
    return [f"m{number:03d}" for number in range(COUNT)]


def measure(root: Path, calls: int) -> Result:
    """Runs a server with the models and calls them."""
    make_models(root)
    size = int(FILE_FACTOR * (root / "table.onnx").stat().st_size)
    capacity = (BOUND_MB << 20) // size
    sequence = zipf(_names(), calls, seed=11, exponent=EXPONENT)

    def command(port: int) -> Sequence[str]:
        flags = [f"--model_memory_mb={BOUND_MB}", f"--preload_models={HOT}", "--num_load_threads=1"]
        program = str(Path(sys.executable).with_name("headrace"))
        return [program, "serve", f"--port={port}", f"--model_config_file={root / 'models.config'}", *flags]

    with running(command, root / "log", patience=300) as server, Client(server.address, timeout=120) as client:
        base = int(server.family_rss_bytes())
        alone = _of_the_hot_model(server, lambda: time.sleep(HOT_SECONDS))
        busy = _of_the_hot_model(server, lambda: _keep_a_core_busy(HOT_SECONDS))
        failures, began = 0, time.monotonic()

        def call() -> None:
            nonlocal failures
            failures = sum(not _answered(client, name) for name in sequence)

        beside = _of_the_hot_model(server, call)
        seconds = time.monotonic() - began
        waits = _loads(server) - 1  # without the load of the hot model
        peak = server.peak_rss_bytes()
    hot = Hot(alone, busy, beside)
    return Result(failures, waits, simulated_misses(sequence, capacity), capacity, hot, peak, base, seconds)


def _of_the_hot_model(server: Server, meanwhile: Callable[[], object]) -> list[float]:
    """The seconds of each call of the hot model that another process makes while a function runs."""
    context = get_context("spawn")
    stop, (taken, sent) = context.Event(), context.Pipe(duplex=False)
    caller = context.Process(target=_keep_calling, args=(server.address, stop, sent))
    caller.start()
    taken.recv()  # the calls have begun
    meanwhile()
    stop.set()
    seconds: list[float] = taken.recv()
    caller.join()
    return seconds


def _keep_calling(address: str, stop: EventClass, sent: Connection) -> None:
    _take_precedence()
    seconds = []
    with Client(address, timeout=120) as client:
        for _ in range(WARM_UP_CALLS):
            _call(client, HOT, 1)
        sent.send(True)
        while not stop.wait(PAUSE_SECONDS):
            began = time.perf_counter()
            _call(client, HOT, 1)
            seconds.append(time.perf_counter() - began)
    sent.send(seconds)


def _take_precedence() -> None:
    """Lets this process run as soon as it has an answer, if the system permits that: most callers are elsewhere."""
    with suppress(PermissionError):
        os.nice(-20)


def _keep_a_core_busy(seconds: float) -> None:
    """Copies as many bytes as a model has, again and again, in a process of the lowest priority."""
    process = get_context("spawn").Process(target=_copy, args=(seconds,))
    process.start()
    process.join()


def _copy(seconds: float) -> None:
    os.nice(19)
    data, until = bytearray(16 * 4 * ROWS), time.monotonic() + seconds
    while time.monotonic() < until:
        bytes(data)


def _call(client: Client, name: str, index: int) -> bool:
    return bool(client.predict(name, {"index": np.array([index])})["y"][0, 0] == index)


def _answered(client: Client, name: str) -> bool:
    try:
        return _call(client, name, 77_777)
    except Exception as error:  # any error counts as a failed call
        print(f"{name}: {error}", file=sys.stderr)
        return False


def _loads(server: Server) -> int:
    return server.log.read_text(errors="replace").count(" loaded in ")


def report(machine: str, calls: int, result: Result) -> str:
    """The figures as Markdown."""
    rows = "\n".join(
        f"| {what} | {len(seconds):,} | {_milliseconds(seconds, 50)} | {_milliseconds(seconds, 99)} |"
        for what, seconds in (
            ("without other calls", result.hot.alone),
            ("while another program, with `nice` 19, keeps a core busy by copying 20 MB", result.hot.busy),
            ("while models are loaded and unloaded", result.hot.beside),
        )
    )
    grown = (result.peak - result.base) / 1e6
    return f"""# More models than memory

Written by `python -m scripts.model_memory`: {COUNT} models of 20 MB and a small one, `--model_memory_mb={BOUND_MB}`,
{calls:,} calls one after the other, with models drawn from a Zipf distribution with exponent {EXPONENT}. Each model
counts as 1.2 times the size of its file, so that {result.capacity} fit.

{machine}

| | measured | expected |
| --- | ---: | ---: |
| calls that failed or were answered wrongly | {result.failures} | 0 |
| calls that waited for a load | {result.waits} | {result.simulated}, by a simulated cache |
| hit rate | {1 - result.waits / calls:.3f} | {1 - result.simulated / calls:.3f} |
| peak resident MB, minus those before the first call | {grown:.0f} | {BOUND_MB * 1.048576:.0f} at most |
| calls of all models per second | {calls / result.seconds:.1f} | |

Another process, with `nice` -20 where the system permits that, calls the small model every {PAUSE_SECONDS * 1e3:g} ms.
Its calls have these latencies, in milliseconds:

| | calls | p50 | p99 |
| --- | ---: | ---: | ---: |
{rows}
"""


def _milliseconds(seconds: Sequence[float], percentile: float) -> str:
    return f"{1e3 * float(np.percentile(seconds, percentile)):.2f}"


if __name__ == "__main__":
    sys.exit(main())

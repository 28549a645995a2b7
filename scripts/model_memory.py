"""Calls 200 models of 20 MB on a server that may hold 1 GB of them: python -m scripts.model_memory [CALLS]."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

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
HOT_CALLS = 2000
FILE_FACTOR = 1.2
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks" / "model_memory.md"


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements.

    Attributes:
        failures: The number of calls that failed, or had a wrong answer.
        waits: The number of calls whose version was not in memory.
        simulated: The same number for a simulated cache of equal size.
        capacity: The number of models that fit.
        alone: The seconds of each call of the hot model without other calls.
        beside: The same while the other models are called.
        peak: The peak resident bytes.
        base: The resident bytes before the first call.
        seconds: The duration of all calls of all models.
    """

    failures: int
    waits: int
    simulated: int
    capacity: int
    alone: Sequence[float]
    beside: Sequence[float]
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
    """Writes the models: each a table of 5 million floats, of which a call reads a row; and a small hot one."""
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
        alone = [_timed(lambda: _call(client, HOT, 1)) for _ in range(HOT_CALLS)]
        stop, waits, failures = Event(), 0, 0
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(_until, stop, lambda: _call(client, HOT, 1))
            began = time.monotonic()
            failures = sum(not _answered(client, name) for name in sequence)
            seconds = time.monotonic() - began
            stop.set()
            taken = beside.result()
        waits = _loads(server) - 1  # that of the hot model
        peak = server.peak_rss_bytes()
    return Result(failures, waits, simulated_misses(sequence, capacity), capacity, alone, taken, peak, base, seconds)


def _call(client: Client, name: str, index: int) -> bool:
    return bool(client.predict(name, {"index": np.array([index])})["y"][0, 0] == index)


def _answered(client: Client, name: str) -> bool:
    try:
        return _call(client, name, 77_777)
    except Exception as error:  # counted, whatever it is
        print(f"{name}: {error}", file=sys.stderr)
        return False


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _until(stop: Event, act: Callable[[], object]) -> list[float]:
    taken = []
    while not stop.is_set():
        taken.append(_timed(act))
        stop.wait(0.002)
    return taken


def _loads(server: Server) -> int:
    return server.log.read_text(errors="replace").count(" loaded in ")


def report(machine: str, calls: int, result: Result) -> str:
    """The figures as Markdown."""
    p50, p99 = (
        [1e3 * float(np.percentile(times, part)) for times in (result.alone, result.beside)] for part in (50, 99)
    )
    grown = (result.peak - result.base) / 1e6
    return f"""# More models than memory

Written by `python -m scripts.model_memory`: {COUNT} models of 20 MB and a small one, `--model_memory_mb={BOUND_MB}`,
{calls:,} calls one after the other, with models drawn from a Zipf distribution with exponent {EXPONENT}. Each model
counts as 1.2 times its file, so that {result.capacity} fit.

{machine}

| | measured | expected |
| --- | ---: | ---: |
| calls that failed or were answered wrongly | {result.failures} | 0 |
| calls that waited for a load | {result.waits} | {result.simulated}, by a simulated cache |
| hit rate | {1 - result.waits / calls:.3f} | {1 - result.simulated / calls:.3f} |
| peak resident MB, minus those before the first call | {grown:.0f} | {BOUND_MB * 1.048576:.0f} at most |
| calls of all models per second | {calls / result.seconds:.1f} | |

Another caller calls the small model all the time. Milliseconds of its calls:

| | p50 | p99 |
| --- | ---: | ---: |
| without other calls | {p50[0]:.2f} | {p99[0]:.2f} |
| while models are loaded and unloaded | {p50[1]:.2f} | {p99[1]:.2f} |
"""


if __name__ == "__main__":
    sys.exit(main())

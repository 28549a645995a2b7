"""Serves thousands of small models and measures their cost: python -m scripts.many_models [COUNT]."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
from google.protobuf import text_format
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from headrace_client import Client
from headrace_protos import ModelServerConfig, ReloadConfigRequest
from scripts.bench.machine import description
from scripts.bench.process import Server, free_port, running

COUNT = 2000
WIDTH = 32
LAYERS = 3
IDLE_SECONDS = 20.0
SCRAPES = 20
PATIENCE = 300.0
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks" / "many_models.md"
PAGE = "/monitoring/prometheus/metrics"

_BARE = """
import json, os, sys, time
import onnxruntime as ort
paths = json.load(open(sys.argv[1]))
began, cpu = time.monotonic(), time.process_time()
if sys.argv[2] == "defaults":
    sessions = [ort.InferenceSession(path) for path in paths]
else:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    sessions = [ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in paths]
print(json.dumps([time.monotonic() - began, time.process_time() - cpu, len(os.listdir("/proc/self/task"))]))
sys.stdout.flush()
os._exit(0)
"""

_OPTIONS = {
    "defaults": "ONNX Runtime's defaults: a pool of threads for each session",
    "own": "the options that headrace gives to models of this size: no threads",
}
"""The options of the bare sessions."""


_WHY = """
This table shows where the time goes, measured by timers around the steps, with 2,000 models (medians of four starts
at real-time priority, beside other programs, on 2026-11-28; the time of the sessions is from 2026-11-29):

| step | time |
| --- | ---: |
| start of the process, mostly imports | 0.41 s |
| parsing a configuration of 2,000 models, and accepting it | 0.14 s |
| scan of all base paths | 0.05 s |
| per model: waiting for ONNX Runtime's session, which another core has taken 0.4 ms to create | 0.01 ms |
| per model: reading its file, and comparing it with files of the same structure | 0.07 ms |
| per model: the rest of its load, in Python | 0.29 ms |
| per model: the first run, as warm-up | 0.12 ms |
| per model: what follows a load, and the choice of the next one | 0.02 ms |
| per model, when the server begins to listen: its route in the native transport | 0.06 ms |

headrace-native creates the sessions on a thread of its own, without the interpreter lock, while Python code loads the
models before them. The rest is Python code, which one thread at a time can run. No part of it stands out: a load
makes 430 calls of Python functions and 21 system calls for files.

Three programs were started five times each, in alternation, at normal priority beside other programs on 2026-11-29.
The median was 2.07 s until the server was ready, 2.34 s if Python created the sessions 128 at a time on both cores
before their loads, and 0.85 s for bare sessions without threads. Without headrace-native, each load creates its own
session. This takes 1.1 to 1.2 times as long as creating them together (medians of 2.94 and 2.66 s, and of 3.05 and
2.61 s).

Python's own sessions cannot be created on another thread beside the loads: each needs the interpreter lock several
times, and a load gives it up at each of its system calls. With Python's switch interval of 5 ms, 2,000 models were
ready after 4.1 s instead of 2.5. With an interval of 10 to 50 us, they were ready after the same time as without the
thread, but the server used 1.25 times the CPU time. Reading the files on that thread saved nothing either, for the
same reason.

This is why the target of 1.3 times the time of bare sessions is missed: the start and the configuration alone take
0.6 times as long as the sessions without threads, and the Python code of the loads 0.9 times.

On a shared machine, runs differ by up to a fifth. In nine earlier starts, which alternated at real-time priority
beside other programs, the median was 2.39 s until the server was ready, with 432 MB of resident memory, and 1.07 s for
a whole program that creates the sessions without threads. The table above was measured with a
still earlier version, which ran quick models several times and collected garbage more often: it took 2.52 s and 450 MB.

With `--onnxruntime_cpu_memory_arena=false`, the server was ready after 2.23 s and had 357 MB: the first run of each
session creates an arena, which takes 27 us and 37 KB. That is not the default, since other models need the arena:
while two threads ran a small model with large intermediate results, each run took 1.1 to 1.5 times as long without
it. On one thread, runs took the same time.

Bare sessions with the defaults are not a reliable reference: 2,000 took 1.1, 1.4 and 18.3 s in three runs on this
machine, and minutes while other programs ran, since the threads of new pools spin.
"""
"""An explanation of the figures; its times were measured once, by timers around the steps of a load."""


@dataclass(frozen=True, slots=True)
class Bare:
    """The cost of creating the sessions one after the other, without doing anything else.

    Attributes:
        seconds: How long it takes.
        cpu: The seconds of CPU time.
        threads: The number of the process's threads at the end.
    """

    seconds: float
    cpu: float
    threads: int


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: a figure and its maximum; None means no maximum."""

    name: str
    value: float
    limit: float | None = None

    @property
    def met(self) -> bool:
        """Whether the figure is at most its maximum."""
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"{self.limit:g}"
        verdict = "" if self.limit is None else "met" if self.met else "**missed**"
        return f"| {self.name} | {self.value:.3g} | {limit} | {verdict} |"


def main() -> int:
    """Measures, and writes the report; returns 1 if a figure is over its maximum."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed server's modules are compiled, too
    machine = "\n\n".join(description())
    with tempfile.TemporaryDirectory(prefix="headrace-many-") as folder:
        root = Path(folder)
        paths = make_models(root, count)
        bare = {options: bare_sessions(root, paths, options) for options in _OPTIONS}
        figures = served(root, count, bare, first_of(root))
    text = report(machine, count, bare, figures)
    if count == COUNT:
        REPORT.write_text(text)
    print(text)
    return 0 if all(figure.met for figure in figures) else 1


def make_models(root: Path, count: int) -> list[Path]:
    """Writes the models, each a small network with weights of its own, and a configuration that lists them."""
    random = np.random.default_rng(0)
    config = ModelServerConfig()
    paths = []
    for number in range(count):
        name = f"model{number:05d}"
        path = root / name / "1" / "model.onnx"
        path.parent.mkdir(parents=True)
        onnx.save_model(_network(random), str(path))
        paths.append(path)
        config.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
    (root / "model.config").write_text(str(config))
    (root / "monitoring.config").write_text("prometheus_config { enable: true }")
    return paths


def _network(random: np.random.Generator) -> onnx.ModelProto:
    """`y` float [N, 32] = `x` float [N, 32] through some layers."""
    weights = [from_array(random.standard_normal((WIDTH, WIDTH), np.float32), f"w{layer}") for layer in range(LAYERS)]
    nodes, last = [], "x"
    for layer in range(LAYERS):
        nodes.append(make_node("MatMul", [last, f"w{layer}"], [f"m{layer}"]))
        last = "y" if layer == LAYERS - 1 else f"r{layer}"
        nodes.append(make_node("Relu", [f"m{layer}"], [last]))
    values = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", "y")]
    return make_model(
        make_graph(nodes, "network", values[:1], values[1:], weights),
        opset_imports=[make_opsetid("", 17)],
        ir_version=9,
    )


def bare_sessions(root: Path, paths: list[Path], options: str) -> Bare:
    """The cost of ONNX Runtime's sessions alone, in one process, with one of `_OPTIONS`."""
    listed = root / "paths.json"
    listed.write_text(json.dumps([str(path) for path in paths]))
    command = [sys.executable, "-c", _BARE, str(listed), options]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return Bare(*json.loads(ended.stdout))


@contextmanager
def serving(root: Path) -> Iterator["Serving"]:
    """A server with the models of a configuration in a folder, which is ready.

    Raises:
        RuntimeError: The server ended with another status than 0 after SIGTERM.
    """
    rest = free_port()

    def command(port: int) -> Sequence[str]:
        files = [f"--{name}_config_file={root / name}.config" for name in ("model", "monitoring")]
        program = str(Path(sys.executable).with_name("headrace"))
        return [program, "serve", f"--port={port}", f"--rest_api_port={rest}", *files]

    began = time.monotonic()
    with running(command, root / "log", PATIENCE) as server:
        _await_in_log(server, "Exporting HTTP")
        yield Serving(server, rest, time.monotonic() - began, server.cpu_seconds())
    if server.process.returncode:
        raise RuntimeError(f"it ended with status {server.process.returncode}: {server.log.read_text()[-2000:]}")


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is ready.

    Attributes:
        server: The server's process.
        rest_port: The port of its metrics page.
        ready: The seconds from its start until it was ready.
        ready_cpu: The seconds of CPU time that it had used by then.
    """

    server: Server
    rest_port: int
    ready: float
    ready_cpu: float

    @property
    def threads(self) -> int:
        """The number of the server's threads."""
        return len(os.listdir(f"/proc/{self.server.process.pid}/task"))

    def cpu_of(self, act: Callable[[], object]) -> float:
        """The seconds of CPU time that the server uses while a function runs."""
        before = self.server.cpu_seconds()
        act()
        return self.server.cpu_seconds() - before

    def page(self) -> bytes:
        """The server's metrics page."""
        with urlopen(f"http://127.0.0.1:{self.rest_port}{PAGE}", timeout=PATIENCE) as answer:
            page: bytes = answer.read()
            return page


def _await_in_log(server: Server, words: str) -> None:
    end = time.monotonic() + PATIENCE
    while words not in server.log.read_text(errors="replace"):
        if server.process.poll() is not None or time.monotonic() > end:
            raise TimeoutError(f"{words!r} is not in the log: {server.log.read_text()[-2000:]}")
        time.sleep(0.05)


def first_of(root: Path) -> tuple[float, float]:
    """The seconds, and the seconds of CPU time, until a server with only the first model is ready."""
    config = ModelServerConfig()
    text_format.Parse((root / "model.config").read_text(), config)
    del config.model_config_list.config[1:]
    folder = root / "first"
    folder.mkdir()
    (folder / "model.config").write_text(str(config))
    (folder / "monitoring.config").write_text((root / "monitoring.config").read_text())
    with serving(folder):
        pass  # compiles the modules
    with serving(folder) as first:
        return first.ready, first.ready_cpu


def served(root: Path, count: int, bare: Mapping[str, Bare], first: tuple[float, float]) -> list[Figure]:
    """The figures of a server with all models; `first` as `first_of` returns it."""
    with serving(root) as own:
        with Client(own.server.address, timeout=PATIENCE) as client:
            x = np.ones((1, WIDTH), np.float32)
            client.predict(f"model{count - 1:05d}", {"x": x})
        threads, megabytes = own.threads, own.server.family_rss_bytes() / 1e6
        idle = own.cpu_of(lambda: time.sleep(IDLE_SECONDS)) / IDLE_SECONDS
        page = own.page()
        scrape = own.cpu_of(lambda: [own.page() for _ in range(SCRAPES)]) / SCRAPES
        reload = reloaded(own, root)
        asked_to_end = time.monotonic()
    ended = time.monotonic() - asked_to_end
    ready, ready_cpu = own.ready, own.ready_cpu
    return [
        Figure(
            "seconds until it is ready, relative to bare sessions with defaults", ready / bare["defaults"].seconds, 1.3
        ),
        Figure(
            "CPU seconds until it is ready, relative to bare sessions with defaults",
            ready_cpu / bare["defaults"].cpu,
            1.3,
        ),
        Figure(
            "seconds until it is ready, relative to bare sessions without threads", ready / bare["own"].seconds, 1.3
        ),
        Figure(
            "CPU seconds until it is ready, relative to bare sessions without threads", ready_cpu / bare["own"].cpu, 1.3
        ),
        Figure("seconds until it is ready", ready),
        Figure("CPU seconds until it is ready", ready_cpu),
        Figure("seconds until a server with one of the models is ready", first[0]),
        Figure("ms for each further model", (ready - first[0]) / (count - 1) * 1e3),
        Figure("ms of CPU time for each further model", (ready_cpu - first[1]) / (count - 1) * 1e3),
        Figure("seconds from SIGTERM to the exit", ended, 3),
        Figure("threads", threads, 60),
        Figure("MB of resident memory", megabytes),
        Figure("cores that it uses when idle, polling every second", idle, 0.01),
        Figure("bytes of the metrics page, one model called once", len(page)),
        Figure("ms of CPU time for a scrape", scrape * 1e3),
        Figure("seconds for a reload that adds one model", reload),
    ]


def reloaded(own: Serving, root: Path) -> float:
    """Adds a model by HandleReloadConfigRequest; returns the seconds until it is available, which ends the call."""
    config = ModelServerConfig()
    text_format.Parse((root / "model.config").read_text(), config)
    first = config.model_config_list.config[0]
    config.model_config_list.config.add(name="added", base_path=first.base_path, model_platform="tensorflow")
    with grpc.insecure_channel(own.server.address) as channel:
        reload: Callable[..., bytes] = channel.unary_unary(
            "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
            request_serializer=ReloadConfigRequest.SerializeToString,
        )
        began = time.monotonic()
        reload(ReloadConfigRequest(config=config), timeout=PATIENCE)
        return time.monotonic() - began


def report(machine: str, count: int, bare: Mapping[str, Bare], figures: list[Figure]) -> str:
    """The figures as Markdown."""
    return f"""# Many models

Written by `python -m scripts.many_models`; it serves {count:,} models of {LAYERS} layers of {WIDTH} x {WIDTH} weights.

{machine}

The times of bare sessions are from a process that has imported ONNX Runtime and creates the models' sessions one after
the other, and does nothing else. The server's time begins with its process: it includes its start and its imports, the
scan of the folders, the decision on which models may be batched, the warm-up, and the log.

| bare sessions with | seconds | CPU seconds | ms of CPU time each | threads |
| --- | ---: | ---: | ---: | ---: |
{chr(10).join(_row(_OPTIONS[options], each, count) for options, each in bare.items())}

| | measured | at most | |
| --- | ---: | ---: | --- |
{chr(10).join(map(str, figures))}
{_WHY}"""


def _row(options: str, bare: Bare, count: int) -> str:
    return f"| {options} | {bare.seconds:.2f} | {bare.cpu:.2f} | {bare.cpu / count * 1e3:.2f} | {bare.threads} |"


if __name__ == "__main__":
    sys.exit(main())

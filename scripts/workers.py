"""Writes docs/operations/workers.md: the cost of a worker process, its effect on other models, and its restarts.

python -m scripts.workers, on an otherwise idle machine; needs h2load.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread

import numpy as np

from scripts.bench.cases import Load
from scripts.bench.load import Caller as Loader
from scripts.bench.machine import description
from scripts.bench.requests import framed
from tests.support import models
from tests.support.calls import Caller, predict_request
from tests.support.running import ServerProcess

PAGE = Path(__file__).parents[1] / "docs" / "operations" / "workers.md"

BATCH = 32
ROUNDS = 9
CALLS = 30_000
WARM_UP_SECONDS = 1.0
PAIRS = 10
OTHER_SECONDS = 1.5
BUSY_SECONDS = 0.5
PATIENCE = 20.0

SMALL = """import os
import numpy as np
INPUTS = {"x": ("float32", [None, 16])}
OUTPUTS = {"y": ("float32", [None, 10])}
W = np.ones((16, 10), np.float32)
def predict(inputs):
    if inputs["x"][0, 0] == 5002: return {"y": np.full((len(inputs["x"]), 10), os.getpid(), np.float32)}
    return {"y": inputs["x"] @ W}
"""

BUSY = f"""import time
INPUTS = {{"x": ("float32", [None, 1])}}
OUTPUTS = {{"y": ("float32", [None, 1])}}
def predict(inputs):
    end = time.thread_time() + {BUSY_SECONDS} * bool((inputs["x"] == 5001).any())
    while time.thread_time() < end: pass
    return {{"y": inputs["x"]}}
"""

HEAD = """# Worker processes in figures

Made by `python -m scripts.workers`. {machine}

{rows}

- *Small model*: a Python model of a 16 by 10 product in numpy, batches of up to {batch} rows, 64 calls of one row in
  flight by h2load; the median of {rounds} alternating runs each.
- *p99 of another model*: calls of an ONNX model, one after the other for {other} s, alone and while a second caller
  keeps calling a Python model that uses {busy} s of CPU time per call. There are {pairs} runs of each kind, in turn;
  the percentile is over all calls of a kind.
- *`kill -9`*: the worker process is killed while four callers call its model. The time is from the kill to the first
  answer to a call that was made after the kill.

On a busy machine (see its load average) these figures say little about throughput: a worker process is one more process
that waits for a CPU.
"""


def main() -> int:
    """Measures everything, and writes the page."""
    machine = " ".join(description())
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as caller:
        seconds, failed = killed(caller)
        own, apart = throughput(caller, Path(folder))
        alone, beside_own, beside_worker = p99(caller)
    rows = [
        "| what | in the server's process | in a worker process |",
        "| --- | ---: | ---: |",
        f"| small model, calls/s | {own:,.0f} | {apart:,.0f} ({apart / own:.2f} times) |",
        f"| p99 of another model, {alone * 1e3:.2f} ms alone | {_beside(beside_own, alone)} "
        f"| {_beside(beside_worker, alone)} |",
        f"| `kill -9` | ends the server | back after {seconds:.2f} s; {failed} calls failed |",
    ]
    settings = {"batch": BATCH, "rounds": ROUNDS, "other": OTHER_SECONDS, "busy": BUSY_SECONDS, "pairs": PAIRS}
    text = HEAD.format(machine=machine, rows="\n".join(rows), **settings)
    PAGE.write_text(text)
    print(text)
    return 0


def _beside(seconds: float, alone: float) -> str:
    return f"{seconds * 1e3:.2f} ms ({seconds / alone:.2f} times)"


@contextmanager
def serving(folder: Path) -> Iterator[Caller]:
    """A server with the small and the busy model, each in both kinds of process, and an ONNX model `other`."""
    for name, code in (("small", SMALL), ("busy", BUSY)):
        for suffix, workers in (("_own", 0), ("", 1)):
            base_path = folder / f"{name}{suffix}"
            (base_path / "1").mkdir(parents=True)
            (base_path / "1" / "model.py").write_text(code)
            (base_path / "model.toml").write_text(f"[isolation]\nworkers = {workers}\n")
    models.linear(folder / "other" / "1")
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    names = ("small", "small_own", "busy", "busy_own", "other")
    config = folder / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entry.format(name, folder) for name in names)} }}")
    batching = folder / "batching.config"
    batching.write_text(f"max_batch_size {{ value: {BATCH} }}\n")
    with ExitStack() as stack:
        server = ServerProcess(folder, f"--model_config_file={config}", f"--batching_parameters_file={batching}")
        stack.callback(server.close)
        caller = server.started()
        stack.callback(caller.close)
        yield caller


def throughput(caller: Caller, folder: Path) -> tuple[float, float]:
    """Calls per second of the small model in the server's process, and in its own: medians of alternating runs."""
    rates: dict[str, list[float]] = {"small_own": [], "small": []}
    loaders = {}
    for name in rates:
        request = predict_request({"x": np.ones((1, 16), np.float32)}, name=name)
        message = folder / f"{name}.message"
        message.write_bytes(framed(request.SerializeToString()))
        answer = framed(caller.call(request).SerializeToString())
        loaders[name] = Loader(f"127.0.0.1:{caller.port}", message, len(answer), Load(connections=4, streams=16))
        loaders[name].warm_up(WARM_UP_SECONDS)
    for _ in range(ROUNDS):
        for name, loader in loaders.items():
            rates[name].append(loader.run(CALLS).requests_per_second)
    return statistics.median(rates["small_own"]), statistics.median(rates["small"])


def p99(caller: Caller) -> list[float]:
    """The p99 of calls of `other`: alone, beside the busy model in the server's process, and beside it in a worker."""
    took: dict[str, list[float]] = {"": [], "busy_own": [], "busy": []}
    for busy in took:
        beside(caller, busy)  # the first run of each kind is slower
    for _ in range(PAIRS):
        for busy, samples in took.items():
            samples += beside(caller, busy)
    return [float(np.quantile(samples, 0.99)) for samples in took.values()]


def beside(caller: Caller, busy: str) -> list[float]:
    """The seconds of each call of `other`, one after the other, while another caller keeps the named model busy."""
    stop = Event()

    def keep_busy() -> None:
        mine = Caller(caller.port)
        while busy and not stop.is_set():
            mine.predict({"x": np.full((1, 1), 5001, np.float32)}, name=busy)
        mine.close()

    thread = Thread(target=keep_busy)
    thread.start()
    request = predict_request({"x": np.ones((1, 4), np.float32)}, name="other")
    took: list[float] = []
    end = time.perf_counter() + OTHER_SECONDS
    while (began := time.perf_counter()) < end:
        caller.call(request)
        took.append(time.perf_counter() - began)
    stop.set()
    thread.join()
    return took


def killed(caller: Caller) -> tuple[float, int]:
    """The seconds until the small model answers after its process was killed, and the number of failed calls."""
    process = _process(caller)
    stop, failed = Event(), [0]

    def call() -> None:
        mine, request = Caller(caller.port), predict_request({"x": np.ones((1, 16), np.float32)}, name="small")
        while not stop.is_set():
            failed[0] += mine.begin(request, timeout=PATIENCE).exception() is not None
        mine.close()

    threads = [Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)  # until the threads call
    os.kill(process, signal.SIGKILL)
    began = time.monotonic()
    request = predict_request({"x": np.ones((1, 16), np.float32)}, name="small")
    while caller.begin(request, timeout=PATIENCE).exception() is not None:
        if time.monotonic() - began > PATIENCE:
            break
    seconds = time.monotonic() - began
    stop.set()
    for thread in threads:
        thread.join()
    return seconds, failed[0]


def _process(caller: Caller) -> int:
    """Returns the ID of the process that runs the small model.

    No other call may run at the same time: the call must have a batch of its own.
    """
    number = int(caller.predict({"x": np.full((1, 16), 5002, np.float32)}, name="small")["y"][0, 0])
    if b"worker_child" not in Path(f"/proc/{number}/cmdline").read_bytes():
        raise RuntimeError(f"process {number} is not a worker process")
    return number


if __name__ == "__main__":
    sys.exit(main())

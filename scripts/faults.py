"""Writes docs/operations/faults.md: how a hang, a crash and a leak in each backend affect another model.

python -m scripts.faults
"""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

import grpc
import numpy as np

from headrace_batching.task import Arrays
from tests.support import models
from tests.support.calls import Caller, predict_request, refusal_of
from tests.support.running import ServerProcess

PAGE = Path(__file__).parents[1] / "docs" / "operations" / "faults.md"

PATIENCE = 20.0
TIMEOUT = 1.0

HEAD = """# Faults of one model

Made by `python -m scripts.faults`. In each row, a server with two models, `faulty` and `other`, is called; `faulty`
then hangs, crashes or takes more memory than it may. The columns show the answer to the call that caused this, the time
until the next successful call of `faulty`, how many calls of `other` were made during that time, one after the other,
and how many of them failed. `--run_timeout` is 1 s; the memory limit, if there is one, is 1 GB.

A crash in the server's own process ends the server; only a worker process contains it. Python models have one by
default, and so do ONNX models that a request could crash; any other model gets one by
`[isolation] workers = 1` in its `model.toml` ([Python models](../python-models.md#worker-processes)).

| backend | fault | its caller | `faulty` is back after | calls of `other` | failed |
| --- | --- | --- | --- | --- | --- |
"""

_SPECS = """import ctypes, os, time
INPUTS = {"x": ("float32", [None, 1])}
OUTPUTS = {"y": ("float32", [None, 1])}
held = []
"""
_PREDICT = """
def predict(inputs):
    kind = int(inputs["x"].max())
    if kind == 5001: time.sleep(3600 if HANG_FOR_EVER else 3)
    if kind == 5002: ctypes.string_at(0)
    if kind == 5003: os._exit(1)
    while kind == 5004: held.append(bytearray(64 << 20))
    return {"y": inputs["x"]}
"""


class Fault(NamedTuple):
    """One row.

    Attributes:
        backend: The backend that runs the model, and the process.
        fault: What the model does.
        write: Writes the model.
        bad: A request that triggers the fault.
        good: A request that does not.
        toml: The model's model.toml.
    """

    backend: str
    fault: str
    write: Callable[[Path], object]
    bad: Arrays
    good: Arrays
    toml: str = ""


def faults() -> Iterator[Fault]:
    """All rows."""
    one = {"x": np.ones((1, 1), np.float32)}
    limit = "[isolation]\nmemory_limit_mb = 1024\n"
    worker = partial(Fault, "Python, in a worker process")
    forever = partial(python, hang_for_ever=True)
    yield worker("hangs", forever, kind(5001), one)
    yield worker("crashes (SIGSEGV)", forever, kind(5002), one)
    yield worker("exits", forever, kind(5003), one)
    yield worker("leaks", forever, kind(5004), one, limit)
    own = "[isolation]\nworkers = 0\n"
    yield Fault(
        "Python, in the server's process", "hangs for 3 s", partial(python, hang_for_ever=False), kind(5001), one, own
    )
    steps, few = {"steps": np.array([1 << 40])}, {"steps": np.array([1])}
    yield Fault("ONNX Runtime, in the server's process", "hangs", models.counting, steps, few)
    isolated = "[isolation]\nworkers = 1\n"
    yield Fault("ONNX Runtime, in a worker process", "hangs", models.counting, steps, few, isolated)
    gru = partial(models.recurrent, operator="GRU", gates=3)
    empty, full = {"x": np.zeros((2, 0, 3), np.float32)}, {"x": np.ones((2, 2, 3), np.float32)}
    yield Fault("ONNX Runtime, in a worker process", "crashes (a GRU of no steps)", gru, empty, full, isolated)
    large = {"x": np.array([1 << 33])}
    yield Fault("ONNX Runtime, in a worker process", "wants 32 GB", models.filled, large, {"x": np.array([2])}, limit)


def kind(number: int) -> Arrays:
    """A request that makes the Python model do something."""
    return {"x": np.full((1, 1), number, np.float32)}


def python(folder: Path, *, hang_for_ever: bool) -> None:
    """Writes the Python model."""
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(f"{_SPECS}HANG_FOR_EVER = {hang_for_ever}\n{_PREDICT}")


def play(fault: Fault, folder: Path) -> str:
    """One row of the table."""
    fault.write(folder / "faulty" / "1")
    (folder / "faulty" / "model.toml").write_text(fault.toml)
    models.linear(folder / "other" / "1")
    entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
    config = folder / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entry.format(name, folder) for name in ('faulty', 'other'))} }}")
    with ExitStack() as stack:
        server = ServerProcess(folder, f"--model_config_file={config}", f"--run_timeout={TIMEOUT}", "--drain_seconds=1")
        stack.callback(server.close)
        caller = server.started()
        stack.callback(caller.close)
        caller.predict(fault.good, name="faulty")
        stop = Event()
        outcomes: list[bool] = []
        thread = Thread(target=_call_other, args=(Caller(caller.port), stop, outcomes))
        thread.start()
        refusal = refusal_of(caller.begin(predict_request(fault.bad, name="faulty"), timeout=PATIENCE).exception())
        back = _seconds_until_back(caller, fault.good)
        stop.set()
        thread.join()
    failed = sum(not fine for fine in outcomes)
    cells = (fault.backend, fault.fault, refusal.code.name, f"{back:.2f} s", f"{len(outcomes)}", f"{failed}")
    return f"| {' | '.join(cells)} |"


def _call_other(caller: Caller, stop: Event, outcomes: list[bool]) -> None:
    request = predict_request({"x": np.ones((1, 4), np.float32)}, name="other")
    while not stop.is_set():
        outcomes.append(caller.begin(request, timeout=PATIENCE).exception() is None)
    caller.close()


def _seconds_until_back(caller: Caller, good: Arrays) -> float:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        try:
            caller.predict(good, name="faulty")
        except grpc.RpcError:
            time.sleep(0.01)
        else:
            return time.monotonic() - began
    return float("inf")


def main() -> int:
    """Runs all rows, and writes the page."""
    rows = []
    for fault in faults():
        with tempfile.TemporaryDirectory() as folder:
            rows.append(play(fault, Path(folder)))
        print(rows[-1], flush=True)
    PAGE.write_text(HEAD + "\n".join(rows) + "\n")
    return 1 if any("inf s" in row or not row.endswith("| 0 |") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

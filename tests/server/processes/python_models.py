"""A Python model that, depending on its input, harms its process."""

from pathlib import Path
from textwrap import dedent

import numpy as np

from headrace_batching.task import Array

FINE = 0
EXITS, CRASHES, HANGS, RAISES, KEEPS, HOARDS, PRINTS, WRITES, IS_KILLED, STOPS, HOLDS = range(1001, 1012)
"""Numbers that a trial of the model never uses."""

_CODE = """
import ctypes, logging, os, signal, sys, time
import numpy as np

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("float32", [None, 2]), "kept": ("float32", [None])}
kept = []

def predict(inputs):
    x = inputs["x"]
    y = x + 1
    kind = int(x[0, 0]) if len(x) else 0
    if kind == 1001: os._exit(7)
    if kind == 1002: ctypes.string_at(0)
    if kind == 1003: time.sleep(3600)
    if kind == 1004: raise ValueError("no")
    if kind == 1005: kept.append(x)
    if kind == 1006: bytearray(1 << 40)
    if kind == 1007:
        print("printed"); print("to stderr", file=sys.stderr); logging.warning("logged")
    if kind == 1008: x[...] = 100
    if kind == 1009: os.kill(os.getpid(), signal.SIGKILL)
    if kind == 1010: sys.exit(3)
    if kind == 1011: ctypes.PyDLL(None).sleep(3600)
    return {"y": y, "kept": np.full(len(x), sum(float(array.sum()) for array in kept), np.float32)}
"""


def write(folder: Path, code: str = _CODE) -> Path:
    """Writes the model as a version."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(dedent(code))
    return folder


def rows(kind: int, count: int = 1) -> Array:
    """A request to it."""
    return np.full((count, 2), kind, np.float32)


_STREAM = """
import ctypes, os, signal, sys, time
import numpy as np

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("float32", [None, 2]), "pid": ("int64", [])}
THREAD_SAFE = True

def stream(inputs):
    x = inputs["x"]
    kind = int(x[0, 0])
    for number in range(3):
        yield {"y": x + number, "pid": np.int64(os.getpid())}
    if kind == 1001: os._exit(7)
    if kind == 1002: ctypes.string_at(0)
    if kind == 1003: time.sleep(3600)
    if kind == 1004: raise ValueError("no")
    if kind == 1006: bytearray(1 << 40)
    if kind == 1009: os.kill(os.getpid(), signal.SIGKILL)
    if kind == 1010: sys.exit(3)
    if kind == 1011: ctypes.PyDLL(None).sleep(3600)
    if kind == 5:
        while True:
            yield {"y": x, "pid": np.int64(os.getpid())}
"""


def write_stream(folder: Path) -> Path:
    """Writes a model that streams three answers before it does what `x` says; FOREVER streams without end."""
    return write(folder, _STREAM)


FOREVER = 5

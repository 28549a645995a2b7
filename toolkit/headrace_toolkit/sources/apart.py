"""Tries a booster's file in a process of its own: on some damaged files, XGBoost and LightGBM end their process."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from headrace_toolkit.errors import ToolkitError, first_line

_SECONDS, _BYTES_A_SECOND = 20, 200_000
"""The CPU seconds allowed for a file: a constant, and one more for this many bytes. Intact files are read at 4 MB per
second.
"""

_MEMORY, _MEMORY_A_BYTE = 2 << 30, 100
"""The number of bytes of memory allowed for a file: a constant, and this many more for each byte of the file."""

_REFUSED = 3
"""The exit status of the process if the library raised an exception; the exception's first line is on stdout."""


def check_apart(file: Path, library: str) -> None:
    """Loads, dumps and runs a booster in a process of its own, which may crash, hang or use too much memory.

    LightGBM 4.7 aborts on nearly every truncated file, since it throws an error out of a parallel loop. Both libraries
    crash if a node's child or column does not exist, and XGBoost 3.2 also on damaged lengths in universal binary JSON.

    Args:
        file: The model.
        library: `xgboost` or `lightgbm`.

    Raises:
        ToolkitError: The library refuses the file, ends its process, or does not come to an end.
    """
    words = ["-P", "-m", __name__, library, str(file.absolute())]  # -P: no module from the user's working directory
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if done.returncode:
        name = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}[library]
        said = done.stdout.decode(errors="replace").strip() if done.returncode == _REFUSED else ""
        raise ToolkitError(f"{file} is not a model that {name} loads: {said or _end(done.returncode, name, file)}")


def _end(status: int, name: str, file: Path) -> str:
    if status == -signal.SIGXCPU:
        return f"{name} does not finish reading it within {_seconds(file)} seconds of CPU time"
    how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    return f"the file is damaged, and {name} crashes on it ({how})"


def _seconds(file: Path) -> int:
    return _SECONDS + file.stat().st_size // _BYTES_A_SECOND


def _limit(file: Path) -> None:
    """Limits this process, and makes it leave no core file."""
    memory = _MEMORY + _MEMORY_A_BYTE * file.stat().st_size
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, _seconds(file)),
        (resource.RLIMIT_DATA, memory),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))


def _rows(columns: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Rows that go to both sides of most splits."""
    return np.stack([np.full(columns, value, np.float32) for value in (0, 1e9, -1e9, np.nan)])


def _try_lightgbm(file: Path) -> None:
    import lightgbm

    booster = lightgbm.Booster(model_file=str(file))
    columns = booster.num_feature()
    dumped = booster.dump_model()  # visits every node, so a cycle of nodes ends in a crash
    _check_columns((tree["tree_structure"] for tree in dumped["tree_info"]), columns)
    booster.predict(_rows(columns))


def _try_xgboost(file: Path) -> None:
    import xgboost

    booster = xgboost.Booster()
    booster.load_model(str(file))
    booster.feature_names = None  # without names, the dump calls the columns f0, f1 and so on
    columns = booster.num_features()
    _check_columns(map(json.loads, booster.get_dump(dump_format="json")), columns)
    booster.predict(xgboost.DMatrix(_rows(columns)))


def _check_columns(trees: Iterable[Mapping[str, Any]], columns: int) -> None:
    """Checks what the libraries do not: they read beyond the end of a row, or write there.

    Raises:
        ToolkitError: A tree compares a column that the rows do not have.
    """
    nodes = list(trees)
    while nodes:
        node = nodes.pop()
        column = int(str(node.get("split_feature", node.get("split", 0))).removeprefix("f"))
        if not 0 <= column < columns:
            raise ToolkitError(f"the file is damaged: a tree compares column {column} of {columns}, counted from 0")
        nodes += [node[side] for side in ("left_child", "right_child") if side in node]
        nodes += node.get("children", ())


def _main(arguments: Sequence[str]) -> int:
    library, file = arguments[0], Path(arguments[1])
    _limit(file)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            {"xgboost": _try_xgboost, "lightgbm": _try_lightgbm}[library](file)
    except Exception as error:
        sys.stdout.buffer.write(first_line(error).encode(errors="replace"))
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))  # not os._exit: freeing the booster reveals damaged memory

"""Size, compressed size, load time and run time; variants take turns, so that a busy machine affects all alike."""

import gzip
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace_toolkit.running import OnnxModel

ROUNDS = 9
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The costs of a model before it answers anything.

    Attributes:
        bytes: The size of all its files.
        gzip_bytes: The sum of the files' compressed sizes.
        load_ms: CPU milliseconds of the calling thread to open a session.
    """

    bytes: int
    gzip_bytes: int
    load_ms: float


def size_of(model: Path, clock: Callable[[], float] = time.thread_time) -> Size:
    """Measures an ONNX file, alone in its folder with its external data."""
    files = [file for file in model.parent.iterdir() if file.is_file() and file.name.startswith(model.stem)]
    return size_in_files(files, lambda: OnnxModel(model), clock)


def size_in_files(
    files: Sequence[Path], load: Callable[[], object], clock: Callable[[], float] = time.thread_time
) -> Size:
    """Measures a model that consists of some files.

    Args:
        files: All files of the model.
        load: Opens the model.
        clock: Returns seconds.
    """
    began = clock()
    load()
    load_ms = (clock() - began) * 1e3
    return Size(
        bytes=sum(file.stat().st_size for file in files),
        gzip_bytes=sum(len(gzip.compress(file.read_bytes(), _GZIP_LEVEL, mtime=0)) for file in files),
        load_ms=load_ms,
    )


def seconds_of_runs(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    seconds: float,
    clock: Callable[[], float] = time.thread_time,
) -> dict[str, float]:
    """CPU seconds of the calling thread for one run of each, by name: the median of rounds in which they take turns.

    The thread's CPU time depends little on other work on the machine, and what remains (caches, clock rates) affects
    all variants alike, since no round contains only one variant.

    Args:
        runs: Each runs one variant once, in the calling thread.
        rounds: The number of rounds, in each of which every variant runs once.
        seconds: CPU seconds for everything.
        clock: Returns seconds.
    """
    repeats: dict[str, int] = {}
    for name, run in runs.items():
        run()
        began = clock()
        run()
        repeats[name] = max(1, int(seconds / rounds / len(runs) / max(clock() - began, 1e-6)))
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = clock()
            for _ in range(repeats[name]):
                run()
            taken[name].append((clock() - began) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}

"""A snapshot of a version's files, to detect later whether any of them has changed."""

import os
from collections.abc import Iterator
from pathlib import Path

from headrace_server.config.model_toml import MODEL_FILE

FilesState = tuple[tuple[object, ...], ...]

_PASSED_OVER = frozenset({"__pycache__"})  # Python writes it when it loads a model.py


def files_state(version: Path) -> FilesState:
    """The state of every file and folder of a version, following links, and of the `model.toml` next to it.

    Any change of a file's content, size, permissions or target changes the state. If something cannot be read, the
    reason is its state, so that the state changes once it can be read.

    Args:
        version: The folder `<base path>/<version>`.
    """
    return (_state(version.parent / MODEL_FILE), *_states(str(version), frozenset()))


def _states(path: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[object, ...]]:
    yield _state(path)
    try:
        stat = os.stat(path)
        identity = (stat.st_dev, stat.st_ino)
        if identity in above:  # a link to a folder that contains it
            return
        names = sorted(set(os.listdir(path)) - _PASSED_OVER)
    except OSError:  # a file, or a folder that cannot be listed
        return
    for name in names:
        yield from _states(os.path.join(path, name), above | {identity})


def _state(path: str | Path) -> tuple[object, ...]:
    try:
        stat = os.stat(path)
    except OSError as error:
        return (os.fspath(path), error.errno)
    return (os.fspath(path), stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

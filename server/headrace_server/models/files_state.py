"""A snapshot of a version's files, to detect later whether any of them has changed."""

import os
import stat
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
    folder = str(version)
    beside = os.path.join(os.path.dirname(folder), MODEL_FILE)  # `version.parent` takes twice as long
    return (_state(beside), *_states(folder, frozenset()))


def _states(path: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[object, ...]]:
    try:
        found = os.stat(path)
    except OSError as error:
        yield (path, error.errno)
        return
    yield _description(path, found)
    identity = (found.st_dev, found.st_ino)
    if not stat.S_ISDIR(found.st_mode) or identity in above:  # a file, or a link to a folder that contains it
        return
    try:
        names = sorted(set(os.listdir(path)) - _PASSED_OVER)
    except OSError:  # the folder's state is that it cannot be listed
        return
    for name in names:
        yield from _states(os.path.join(path, name), above | {identity})


def _state(path: str) -> tuple[object, ...]:
    try:
        return _description(path, os.stat(path))
    except OSError as error:
        return (path, error.errno)


def _description(path: str, found: os.stat_result) -> tuple[object, ...]:
    return (path, found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

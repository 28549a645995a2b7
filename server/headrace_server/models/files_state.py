"""A snapshot of a version's files, to detect later whether any of them has changed."""

import os
import stat
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
    states: list[tuple[object, ...]] = []
    _add(states, beside, None)
    _add(states, folder, ())
    return tuple(states)


def _add(states: list[tuple[object, ...]], path: str, above: tuple[tuple[int, int], ...] | None) -> None:
    """Adds the state of a path and, if it is a folder, of everything in it.

    `above` has the folders that contain the path; None means that nothing in a folder is added. Plain loops are used,
    since this is done for each of thousands of models while a server starts.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        states.append((path, error.errno))
        return
    mode, inode = found.st_mode, found.st_ino
    states.append((path, inode, mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    if above is None or not stat.S_ISDIR(mode):
        return
    identity = (found.st_dev, inode)
    if identity in above:  # a link to a folder that contains it
        return
    try:
        names = os.listdir(path)
    except OSError:  # the folder's state is that it cannot be listed
        return
    for name in sorted(names):
        if name not in _PASSED_OVER:
            _add(states, f"{path}/{name}", (*above, identity))

"""Refuses impossible paths on the command line, before any work is done."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError

_WRITTEN = ("json", "png", "html", "batching_file")
"""The flags that name files which a command writes in addition to versions."""


def check_version(place: Path) -> None:
    """Refuses a path that is not a version.

    Raises:
        ToolkitError: The path is not a version; the text says why.
    """
    from headrace_server.backends.auto import is_model_file

    if not place.exists():
        raise ToolkitError(f"there is no version {place}")
    if place.is_file() and not is_model_file(place):
        raise ToolkitError(f"{place} must be a version's folder or a model's file")
    inside = list(place.iterdir()) if place.is_dir() else []
    versions = sorted((each.name for each in inside if each.is_dir() and each.name.isdecimal()), key=int)
    if place.is_dir() and not inside:
        raise ToolkitError(f"{place} contains no model")
    if versions and not any(map(is_model_file, inside)):
        raise ToolkitError(f"{place} is a folder of versions: name one of them, such as {place / versions[-1]}")


def check_files(given: Mapping[str, Any]) -> None:
    """Refuses names of output files that cannot be written.

    Args:
        given: The values of flags by name.

    Raises:
        ToolkitError: A file cannot be written.
    """
    for file in (Path(given[kind]) for kind in _WRITTEN if kind in given):
        folder = file.absolute().parent
        if not folder.is_dir():
            raise ToolkitError(f"{file} cannot be written: there is no folder {file.parent}")
        if file.is_dir():
            raise ToolkitError(f"{file} cannot be written: it is a folder")
        if not os.access(file if file.exists() else folder, os.W_OK):
            raise ToolkitError(f"{file} cannot be written: {os.strerror(errno.EACCES)}")

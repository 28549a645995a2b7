"""The content of a model's base path: the versions that exist, and those of them that are wanted."""

import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from headrace_server.backends.auto import is_model_file
from headrace_server.config.model_config import ModelConfig, Specific
from headrace_server.models.version_policy import chosen

_VERSION = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
_INT64 = range(-(1 << 63), 1 << 63)

RECENT_NS = 3_000_000_000
"""If a folder changed less than this many ns before it was listed, a later change may have the same timestamp."""


@dataclass(slots=True)
class BasePath:
    """One model's base path, and when it last changed before it was listed.

    Attributes:
        model: The model's configuration, with its base path and its version policy.
        said: The problem found at the last scan; empty if there was none.
        is_new: Whether the base path has not been scanned yet.
    """

    model: ModelConfig
    said: str = ""
    is_new: bool = field(default=True, init=False)
    _path: str = field(init=False)
    _changed_ns: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._path = str(self.model.base_path)

    def may_have_changed(self) -> bool:
        """Whether the versions may have changed since the last `look`, judging by the folder's modification time.

        Not every file system maintains that time, so the base path must still be listed from time to time.
        """
        try:
            return os.stat(self._path).st_mtime_ns != self._changed_ns
        except (OSError, ValueError):
            return True

    def look(self) -> tuple[dict[int, Path] | None, str]:
        """Lists the base path; returns the wanted versions with their folders (None if that fails), and the problem."""
        self.is_new, self._changed_ns = False, None
        try:
            changed = os.stat(self._path).st_mtime_ns
            found = _versions_of(self.model)
        except (OSError, ValueError) as error:  # a name that holds a zero byte causes a ValueError
            return None, _not_found(self.model, error)
        if time.time_ns() - changed > RECENT_NS:
            self._changed_ns = changed
        wanted = chosen(found, self.model.policy)
        return {version: found[version] for version in wanted}, _complaints(self.model, found, wanted)


def versions_under(base_path: Path) -> dict[int, Path]:
    """The children whose names are int64 numbers.

    If several names are the same number, such as `01` and `1`, the one that is last in byte order counts.

    Raises:
        OSError: The folder cannot be listed.
    """
    names = sorted(filter(_VERSION.fullmatch, os.listdir(base_path)))
    return {int(name): base_path / name for name in names if int(name) in _INT64}


def _versions_of(model: ModelConfig) -> dict[int, Path]:
    """A model's versions; 1 for a base path that is a model's file.

    If the folder cannot be listed, these are the requested versions that exist.

    TF Serving's AspireSpecificVersionsFastPath does the same.

    Raises:
        OSError: The versions cannot be listed, and no requested one exists.
    """
    if is_model_file(model.base_path) and model.base_path.is_file():
        return {1: model.base_path}
    try:
        return versions_under(model.base_path)
    except PermissionError:
        asked_for = model.policy.versions if isinstance(model.policy, Specific) else ()
        found = {version: model.base_path / str(version) for version in asked_for}
        found = {version: path for version, path in found.items() if os.path.exists(path)}
        if not found:
            raise
        return found


def _complaints(model: ModelConfig, found: dict[int, Path], wanted: list[int]) -> str:
    complaints: list[str] = []
    if isinstance(model.policy, Specific):
        complaints.extend(_missing(model, version) for version in model.policy.versions if version not in found)
        if not model.policy.versions:
            complaints.append(f"No specific versions requested for servable {model.name}.")
    if not wanted and model.policy != Specific(()):
        complaints.append(_nothing_under(model))
    return " ".join(complaints)


def _not_found(model: ModelConfig, error: OSError | ValueError) -> str:
    reason = error.strerror if isinstance(error, OSError) else error
    return (
        "FileSystemStoragePathSource encountered a filesystem access error: "
        f"Could not find base path {model.where} for servable {model.name} with error {reason}"
    )


def _nothing_under(model: ModelConfig) -> str:
    return (
        f"No versions of servable {model.name} found under base path {model.where}. "
        "Did you forget to name your leaf directory as a number (eg. '/1/')?"
    )


def _missing(model: ModelConfig, version: int) -> str:
    return (
        f"Version {version} of servable {model.name}, which was requested to be served as a 'specific' version in the "
        "servable's version policy, was not found in the file system"
    )

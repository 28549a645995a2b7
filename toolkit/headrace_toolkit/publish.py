"""Moves a version into a model's base path by one rename, so that a watching server sees all of it or nothing."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace_server.backends.auto import MODEL_FILES
from headrace_server.config.model_toml import MODEL_FILE as MODEL_OPTIONS_FILE
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.ranges import LARGEST_VERSION

CARD_FILE = "card.json"
PROFILE_FILE = "profile.json"

_NEW = ".new-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The content of a version.

    Attributes:
        files: The files to copy into it, by their names there.
        documents: The JSON documents to write into it, by name.
        model_options: The text of `model.toml` beside the versions, if the base path has none; empty means none.
        key: The PEM file of a private key that signs the version; None means no signature.
    """

    files: Mapping[str, Path]
    documents: Mapping[str, Any] = field(default_factory=dict)
    model_options: str = ""
    key: Path | None = None


def publish(base: Path, contents: Contents, version: int = 0) -> Path:
    """Writes a version next to the other versions, syncs it to disk, and renames it into place.

    Leftovers of an earlier, killed run are removed first.

    Args:
        base: The base path, which is created if missing.
        contents: The version's content.
        version: The version's number; 0 means one more than the highest.

    Returns:
        The version's folder.

    Raises:
        ToolkitError: The base path cannot be written, the disk is full, or the version exists. Nothing is left behind.
    """
    made = _missing_folders(base)
    try:
        base.mkdir(parents=True, exist_ok=True)
        with _folder_in_work(base) as folder:
            return _publish(folder, base, contents, version)
    except BaseException as error:  # an interrupted run also removes the folder that it created
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise ToolkitError(f"{base} cannot be written: {error.strerror}") from error
        raise


def check_base(base: Path, version: int = 0) -> None:
    """Refuses, before any work, a base path that cannot take a new version.

    Raises:
        ToolkitError: The base path cannot be written, is not a folder, is a model itself, or has this version already.
    """
    if base.is_symlink() and not base.exists():
        raise ToolkitError(f"{base} cannot be written: it is a link to {os.readlink(base)}, which cannot be resolved")
    for name in MODEL_FILES:
        if (base / name).is_file():
            above = f": name the folder above it, {base.parent}" if base.name.isdecimal() else ""
            raise ToolkitError(f"{base} contains a {name}, and must be a folder of numbered versions{above}")
    nearest = next(folder for folder in (base, *base.absolute().parents) if folder.exists())
    if not nearest.is_dir():
        raise ToolkitError(f"{base} cannot be created: {nearest} is not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ToolkitError(f"{base} cannot be written: {os.strerror(errno.EACCES)}")
    if version and (base / str(version)).exists():
        raise ToolkitError(f"{base / str(version)} already exists; a published version is never changed")


def check_key(key: Path) -> None:
    """Refuses, before any work, a file that cannot sign a version.

    Raises:
        ToolkitError: The file cannot be read or is not a private key that signs versions, or `cryptography` is missing.
    """
    with _refusals():
        from headrace_server.security.models import signing

        signing.check_key(key, os.environ.get(signing.PASSWORD_VARIABLE, ""))


def _sign(folder: Path, key: Path) -> None:
    """Signs a folder before it is renamed, so that no server sees the version without its signature."""
    with _refusals():
        from headrace_server.security.models import signing

        signing.sign(folder, key, password=os.environ.get(signing.PASSWORD_VARIABLE, ""))


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turns the server's errors into the toolkit's."""
    from headrace_server.errors import ServingError

    try:
        yield
    except ServingError as error:
        raise ToolkitError(error.message) from error


def versions_of(base: Path) -> list[int]:
    """The numbers of the published versions, in order."""
    if not base.is_dir():
        return []
    return sorted(int(entry.name) for entry in base.iterdir() if _is_number(entry.name) and entry.is_dir())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _publish(folder: Path, base: Path, contents: Contents, version: int) -> Path:
    for name, file in contents.files.items():
        shutil.copyfile(file, folder / name)
    for name, document in contents.documents.items():
        (folder / name).write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if contents.key is not None:
        _sign(folder, contents.key)
    for file in folder.iterdir():
        file.chmod(0o644)
        _sync(file)
    folder.chmod(0o755)
    wrote_options = _write_model_options(folder, base, contents.model_options)
    _sync(folder)
    try:
        target = _rename(folder, base, version)
    except BaseException:
        if wrote_options:
            (base / MODEL_OPTIONS_FILE).unlink()
        raise
    _sync(base)
    return target


@contextlib.contextmanager
def _folder_in_work(base: Path) -> Iterator[Path]:
    """A new folder, which is locked while it is written, and removed afterwards unless it was renamed."""
    with _locked(base):  # otherwise another process might consider it abandoned before it is locked
        _remove_abandoned(base)
        folder = base / f"{_NEW}{secrets.token_hex(8)}"
        folder.mkdir()
        stack = contextlib.ExitStack()
        stack.enter_context(_locked(folder))
    with stack:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds a folder's lock; the kernel releases it when the process ends for any reason.

    Raises:
        BlockingIOError: Another process has the lock, and this one must not wait.
    """
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(opened)


def _remove_abandoned(base: Path) -> None:
    """Removes temporary folders whose writer has ended: their lock is free."""
    for folder in base.glob(f"{_NEW}*"):
        with contextlib.suppress(OSError), _locked(folder, wait=False):
            shutil.rmtree(folder)


def _rename(folder: Path, base: Path, version: int) -> Path:
    """Renames to the version's number, or to the next free one unless the number was requested."""
    number = version or max(versions_of(base), default=0) + 1
    while True:
        if number > LARGEST_VERSION:
            raise ToolkitError(f"{base} has the version {LARGEST_VERSION}, the highest there can be: name a lower one")
        target = base / str(number)
        if not target.exists():  # a rename silently replaces an empty folder
            try:
                return folder.rename(target)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        if version:
            raise ToolkitError(f"{target} already exists; a published version is never changed")
        number += 1


def _write_model_options(folder: Path, base: Path, text: str) -> bool:
    """Writes model.toml beside the versions unless it exists; returns whether it did."""
    if not text:
        return False
    new = folder / MODEL_OPTIONS_FILE
    new.write_text(text, encoding="utf-8")
    _sync(new)
    try:
        os.link(new, base / MODEL_OPTIONS_FILE)  # links the complete file, and never replaces another one
    except FileExistsError:
        return False
    finally:
        new.unlink()
    return True


def _missing_folders(base: Path) -> list[Path]:
    """The folders that creating `base` will create, the innermost first."""
    missing = []
    for folder in (base, *base.absolute().parents):
        if folder.exists():
            break
        missing.append(folder)
    return missing


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)

"""Unpacks untrusted archives: no file may leave the folder, be a link, or grow without limit."""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from headrace_server.stores.base import CHUNK, StoreError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

MOST_FILES = 100_000
"""The maximum number of files and folders of an archive."""


def is_archive(name: str) -> bool:
    """Whether a file with this name is unpacked."""
    return name.lower().endswith(ENDINGS)


def safe_path(uri: str, path: str) -> PurePosixPath:
    """Checks that a file's path stays below the folder that it is joined to, and returns it.

    Raises:
        StoreError: The path leads elsewhere, or is empty.
    """
    made = PurePosixPath(path)
    odd = "\0" in path or "\\" in path or made.is_absolute() or ".." in made.parts or not made.parts
    if odd or any(len(part.encode()) > 255 for part in made.parts):
        raise StoreError(f"{uri}: the path {path!r} of a file in it leads out of its folder")
    return made


def unpack(uri: str, archive: Path, into: Path, most_bytes: int) -> None:
    """Unpacks an archive; a single folder around all of its content is left out.

    Args:
        uri: The archive's origin, for errors.
        archive: The archive's file.
        into: A folder that exists.
        most_bytes: The limit on the total size of the archive's files.

    Raises:
        StoreError: The file is not an archive, is too large, or contains something that is neither a file nor a folder.
    """
    budget = _Budget(uri, most_bytes)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as opened:
                _unpack_zip(uri, opened, into, budget)
        else:
            with tarfile.open(archive, "r:*") as tar:
                _unpack_tar(uri, tar, into, budget)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise StoreError(f"{uri}: {archive.name} cannot be unpacked: {error}") from error
    _leave_out_folder(into)


class _Budget:
    """The remainder of an archive's limits."""

    def __init__(self, uri: str, most_bytes: int) -> None:
        self._uri = uri
        self._most = most_bytes
        self._bytes = most_bytes
        self._files = MOST_FILES

    def take_file(self) -> None:
        """Counts one more file or folder."""
        self._files -= 1
        if self._files < 0:
            raise StoreError(f"{self._uri}: its archive contains more than {MOST_FILES} files")

    def take(self, size: int) -> None:
        """Counts more bytes."""
        self._bytes -= size
        if self._bytes < 0:
            raise StoreError(
                f"{self._uri}: its archive contains more than the {self._most >> 20} MB that there is room for"
            )


def _unpack_zip(uri: str, opened: zipfile.ZipFile, into: Path, budget: _Budget) -> None:
    for entry in opened.infolist():
        budget.take_file()
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise StoreError(f"{uri}: {entry.filename} in its archive is neither a file nor a folder")
        target = into / safe_path(uri, entry.filename)
        if entry.is_dir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        with opened.open(entry) as source:
            _write(source, target, budget)


def _unpack_tar(uri: str, tar: tarfile.TarFile, into: Path, budget: _Budget) -> None:
    for entry in tar:
        budget.take_file()
        name = entry.name.removeprefix("./")
        if name in ("", "."):
            continue
        if not (entry.isreg() or entry.isdir()):
            raise StoreError(f"{uri}: {entry.name} in its archive is neither a file nor a folder")
        target = into / safe_path(uri, name)
        if entry.isdir():
            target.mkdir(parents=True, exist_ok=True)
            continue
        source = tar.extractfile(entry)
        assert source is not None  # it is None only for other kinds of entries
        _write(source, target, budget)


def _write(source: IO[bytes], target: Path, budget: _Budget) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        for chunk in _chunks(source):
            budget.take(len(chunk))
            file.write(chunk)


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _leave_out_folder(into: Path) -> None:
    """Replaces a single folder by its content, unless the folder is a version."""
    names = os.listdir(into)
    if len(names) != 1 or names[0].isdecimal() or not (into / names[0]).is_dir():
        return
    aside = into / f"{names[0]}.unpacked"
    (into / names[0]).rename(aside)
    for child in os.listdir(aside):
        shutil.move(aside / child, into / child)
    aside.rmdir()

"""Fetches the files of a version: resumes, checks and unpacks them, and publishes only complete versions."""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from errno import ENOSPC
from pathlib import Path

from headrace_server.stores.base import Changed, RemoteFile, Store, StoreError, without_secrets
from headrace_server.stores.cache import Cache, key_of
from headrace_server.stores.unpacking import safe_path, unpack

SUMS = "SHA256SUMS"
"""A file of checksums in the format of `sha256sum`, with which the other files of its folder are compared."""

log = logging.getLogger(__name__)

PART = ".part"
UNPACKING = ".unpacking"
UNPACKED = ".unpacked"

_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


class Fetching:
    """Fetches from one store into the cache.

    Args:
        uri: The URI of the store.
        store: The store to read from.
        cache: The cache to write to.
        fetched: Called repeatedly with the number of bytes that have arrived.
        stopping: Returns whether to give up.
    """

    def __init__(
        self,
        uri: str,
        store: Store,
        cache: Cache,
        fetched: Callable[[int], None] = lambda _: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._uri = uri
        self._store = store
        self._cache = cache
        self._fetched = fetched
        self._stopping = stopping

    def fetch(self, files: Sequence[RemoteFile]) -> Path | None:
        """Fetches files, and returns their folder; None if another process is fetching them now.

        Raises:
            StoreError: The files cannot be fetched, or differ from the expected ones.
        """
        key = key_of(self._uri, files)
        if (found := self._cache.content(key)) is not None:
            return found
        size = sum(max(0, file.size) for file in files)
        room = self._cache.make_room(self._uri, size)
        log.info("fetching %d files of %.1f MB from %s", len(files), size / 1e6, without_secrets(self._uri))
        with self._cache.partial(key) as folder:
            if folder is None:
                return None
            try:
                for file in files:
                    self._fetch(file, folder, room)
                for done in folder.rglob(f"*{UNPACKED}"):
                    done.unlink()
                _check_sums(self._uri, folder)
                return self._cache.complete(key, folder)
            except Changed:
                self._cache.drop_partial(key)
                raise
            except OSError as error:
                if error.errno == ENOSPC:
                    self._cache.drop_partial(key)
                raise StoreError(f"{self._uri}: {folder}: {error.strerror}") from error

    def _fetch(self, file: RemoteFile, folder: Path, room: int) -> None:
        target = folder / safe_path(self._uri, file.path)
        unpacked = target.with_name(target.name + UNPACKED)
        if target.exists() or unpacked.exists():  # an earlier try has fetched it
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + PART)
        self._read(file, part, room)
        if not file.unpack:
            part.rename(target)
            return
        into = target.with_name(target.name + UNPACKING)
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        try:
            unpack(self._uri, part, into, room)
        except BaseException:
            shutil.rmtree(into, ignore_errors=True)  # its content may have taken all the room there is
            raise
        shutil.copytree(into, folder, dirs_exist_ok=True, copy_function=os.replace)
        shutil.rmtree(into)
        unpacked.touch()
        part.unlink()

    def _read(self, file: RemoteFile, part: Path, room: int) -> None:
        part.touch()
        most = file.size if file.size >= 0 else room
        digest, size = _read_so_far(part)
        if size != file.size:
            with part.open("ab") as out:
                for chunk in self._store.read(file, size):
                    if self._stopping():
                        raise StoreError(f"{self._uri}: the server is stopping; it fetches the rest after a restart")
                    size += len(chunk)
                    if size > most:
                        break
                    out.write(chunk)
                    digest.update(chunk)
                    self._fetched(len(chunk))
        if size > most:
            part.unlink()
            raise StoreError(f"{self._uri}: {file.path} has more than the {most} bytes that were expected")
        if file.size not in (-1, size):
            raise StoreError(f"{self._uri}: {file.path} has {size} bytes, but the store listed it with {file.size}")
        if file.sha256 and digest.hexdigest() != file.sha256:
            part.unlink()
            raise StoreError(f"{self._uri}: the SHA-256 of {file.path} must be {file.sha256}; was {digest.hexdigest()}")


def _read_so_far(part: Path) -> "tuple[hashlib._Hash, int]":
    """The hash and the size of a file's current content."""
    with part.open("rb") as file:
        return hashlib.file_digest(file, "sha256"), file.tell()


def _check_sums(uri: str, folder: Path) -> None:
    """Compares files with the checksums next to them; deletes the folder if one of them does not match.

    Raises:
        StoreError: A file is missing, or does not match its checksum.
    """
    for sums in folder.rglob(SUMS):
        for digest, name in _SUM.findall(sums.read_text(errors="replace")):
            path = sums.parent / safe_path(uri, name.removeprefix("./"))
            found = _read_so_far(path)[0].hexdigest() if path.is_file() else "missing"
            if found != digest.lower():
                shutil.rmtree(folder)
                raise StoreError(f"{uri}: {name} is not what {SUMS} says: its SHA-256 is {found}")

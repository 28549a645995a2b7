"""Files in memory that nobody can change, so that the verified bytes are those that are loaded."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from headrace_server.errors import unreadable

CHUNK = 1 << 20

SHARED_MEMORY = Path("/dev/shm")
"""A file system in memory on most machines. Only names are created in it; the files themselves are anonymous."""

SEALED = "headrace-sealed-"
"""The beginning of the names of folders with unsealed files."""

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def stays_in_memory(path: Path) -> bool:
    """Whether a file was unsealed: then nothing that contains its content may be written to a disk."""
    return any(part.startswith(SEALED) for part in path.parts)


class MemoryFile:
    """An anonymous file in memory that is written once.

    Args:
        name: The file's name in /proc.

    Attributes:
        descriptor: The descriptor, open until `close`.
    """

    def __init__(self, name: str) -> None:
        self.descriptor = os.memfd_create(name[:200], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        self._hash = hashlib.sha256()

    @property
    def path(self) -> Path:
        """The path by which this process and its children with the same user can open it."""
        return Path(f"/proc/{os.getpid()}/fd/{self.descriptor}")

    @property
    def digest(self) -> bytes:
        """The SHA-256 of the written bytes."""
        return self._hash.digest()

    def write(self, chunk: bytes | memoryview) -> None:
        """Adds bytes."""
        self._hash.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def finish(self) -> None:
        """Makes the file unchangeable for everybody."""
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def close(self) -> None:
        """Closes the file, whose memory is freed once nothing has it open."""
        os.close(self.descriptor)


def copy_of(path: Path) -> MemoryFile:
    """Copies a file's current bytes to memory.

    Raises:
        ServingError: The file cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return kept(path.name, file)
    except OSError as error:
        raise unreadable(path, error) from error


def kept(name: str, source: IO[bytes]) -> MemoryFile:
    """Copies a source's bytes to memory.

    Args:
        name: The file's name in /proc.
        source: The source, read to its end.
    """
    copy = MemoryFile(name)
    try:
        while chunk := source.read(CHUNK):
            copy.write(chunk)
        copy.finish()
    except BaseException:
        copy.close()
        raise
    return copy


def close_all(files: Iterable[MemoryFile]) -> None:
    """Frees files, each once nothing has it open."""
    for file in files:
        file.close()


class PrivateFolder:
    """A folder of mode 0700 whose files are in memory, until it is closed.

    Args:
        base: The name of the inner folder that stands for a model's base path.
        version: The name of the version's folder or file within it.
        is_sealed: Whether the version was sealed.

    Attributes:
        version: The version's path.
    """

    def __init__(self, base: str, version: str, *, is_sealed: bool = False) -> None:
        where = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK | os.X_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix=SEALED if is_sealed else "headrace-", dir=where))
        self._files: list[MemoryFile] = []
        self.version = self._folder / (base or "model") / version
        self.version.parent.mkdir(mode=0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.close()

    def add(self, files: Mapping[str, MemoryFile]) -> None:
        """Adds files by their names below the version's folder; the name `.` stands for the version itself."""
        if "." not in files:
            self.version.mkdir(mode=0o700)
        for name, file in files.items():
            self._files.append(file)
            link = self.version / name
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.symlink_to(file.path)

    def copy_beside(self, path: Path) -> None:
        """Puts a copy of a file next to the version, if there is such a file."""
        if path.is_file():
            file = copy_of(path)
            self._files.append(file)
            (self.version.parent / path.name).symlink_to(file.path)

    def close(self) -> None:
        """Removes the names, and frees the memory of files that nothing uses."""
        shutil.rmtree(self._folder, ignore_errors=True)
        while self._files:
            self._files.pop().close()

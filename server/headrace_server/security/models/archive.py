"""The plain bytes of a sealed model: a tar archive of a version's files, which is read only into memory."""

import os
import tarfile
from collections.abc import Mapping
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import IO, Any

from headrace_server.security.models.private_files import CHUNK, MemoryFile, close_all, kept


class BadSeal(ValueError):
    """The reason why a sealed model cannot be opened."""


def write_archive(files: Mapping[str, Path], out: IO[bytes] | RawIOBase) -> None:
    """Writes files by their names within the version.

    Raises:
        OSError: A file cannot be read, or the archive cannot be written.
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files.items()):
            with path.open("rb") as file:
                member = tarfile.TarInfo(name)
                member.size = os.fstat(file.fileno()).st_size
                member.mode = 0o644
                archive.addfile(member, file)


def read_archive(stream: IO[bytes]) -> dict[str, MemoryFile]:
    """Reads an archive: returns its files, in memory, by their names within the version.

    Args:
        stream: Plain bytes, which are read to their end, since the decryption may notice only there that they were
            truncated.

    Raises:
        BadSeal: The archive is damaged, or has a member that is not a file within the version.
    """
    opened: dict[str, MemoryFile] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isdir():
                    continue
                name = _member_name(member, opened)
                source = archive.extractfile(member)
                assert source is not None  # the member is a regular file
                opened[name] = kept(PurePosixPath(name).name, source)
        while stream.read(CHUNK):
            pass
    except tarfile.TarError as error:
        close_all(opened.values())
        raise BadSeal(f"it does not contain an archive: {error}") from error
    except BaseException:
        close_all(opened.values())
        raise
    return opened


def _member_name(member: tarfile.TarInfo, opened: Mapping[str, Any]) -> str:
    name = member.name.removeprefix("./")  # the prefix that `tar c .` adds
    path = PurePosixPath(name)
    wrong = path.is_absolute() or ".." in path.parts or str(path) != name or name in (".", "")
    if wrong or not member.isreg() or name in opened:
        raise BadSeal(f"it contains {member.name!r}, which is not a file of the version")
    return name

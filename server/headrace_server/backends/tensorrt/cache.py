"""Stores built engines in a folder, each complete and under a key of everything that it depends on."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_CHUNK = 1 << 20
_BUILT = {".plan", ".engine"}


def model_key(folder: Path, parts: Iterable[object]) -> str:
    """The key of an engine: a hash of the model's files and of everything else that it depends on.

    A plan next to these files was built from them, and does not change the key.

    Args:
        folder: The version's folder, with the model and its external data.
        parts: TensorRT's version, the GPU, the options; each by its repr.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file() and path.suffix not in _BUILT):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
    for part in parts:
        digest.update(f"{part!r}\0".encode())
    return digest.hexdigest()


def read(path: Path) -> bytes | None:
    """A file's bytes; None if it does not exist or cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def write(path: Path, content: bytes) -> None:
    """Replaces a file atomically, even while other processes write or read it.

    Raises:
        OSError: The file cannot be written; an existing file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise

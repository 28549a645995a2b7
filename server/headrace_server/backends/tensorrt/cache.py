"""Built engines in a folder: each under a key of all that it depends on, written whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_CHUNK = 1 << 20
_BUILT = {".plan", ".engine"}


def model_key(folder: Path, parts: Iterable[object]) -> str:
    """What an engine is kept under: a hash of the model's files, names and bytes, and of what else it depends on.

    A plan beside them is what came of them, and no part of it.

    Args:
        folder: The version's, with the model and its external data.
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
    """A file's bytes; None where there is none, or none that may be read."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def write(path: Path, content: bytes) -> None:
    """Puts a file in its place, whole, whoever else writes or reads it meanwhile.

    Raises:
        OSError: It cannot be written; what was there stays.
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

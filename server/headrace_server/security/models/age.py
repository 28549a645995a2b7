"""Models that are sealed for age recipients: a file that `age` can write and read, opened only in memory.

The format is that of https://age-encryption.org/v1, by the package pyrage. The decrypted content is the same archive as
in headrace's own format. pyrage writes to a file and tarfile reads from one, so a pipe connects the two.
"""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from headrace_server.errors import invalid
from headrace_server.security.models.archive import BadSeal, read_archive, write_archive
from headrace_server.security.models.model_keys import IDENTITY_PREFIX, ModelKeys
from headrace_server.security.models.private_files import MemoryFile, close_all
from headrace_server.security.packages import needs

MAGIC = b"age-encryption.org/v1\n"

_PIPE_BYTES = 1 << 16
"""The size of a pipe. pyrage keeps the interpreter lock until it has filled the pipe, which takes at most 0.3 ms."""


def recipients_of(texts: Sequence[str]) -> list[Any]:
    """Parses recipients.

    Args:
        texts: Public keys, `age1...`.

    Raises:
        ServingError: INVALID_ARGUMENT if a text is not a recipient; FAILED_PRECONDITION if pyrage is not installed.
    """
    pyrage = _pyrage()
    return [_recipient(pyrage, each) for each in texts]


def seal_for(files: Mapping[str, Path], recipients: Sequence[Any], out: BinaryIO) -> None:
    """Seals files, by their names within the version, so that each recipient can open them.

    Raises:
        OSError: A file cannot be read, or the archive cannot be written.
    """
    pyrage = _pyrage()
    with _beside(lambda source: pyrage.encrypt_io(source, out, recipients), "rb") as plain:
        write_archive(files, plain)


def open_age(file: BinaryIO, keys: ModelKeys) -> dict[str, MemoryFile]:
    """Opens a sealed model: returns its files, in memory, by their names within the version.

    Raises:
        BadSeal: The archive was changed, or sealed for others.
        ServingError: An identity is invalid, or pyrage is not installed.
    """
    pyrage, identities = _pyrage(), identities_of(keys)
    if not identities:
        raise BadSeal(f"it is sealed for age recipients, and there is no age identity ({IDENTITY_PREFIX}...)")
    opened: dict[str, MemoryFile] = {}
    try:
        with _beside(lambda plain: pyrage.decrypt_io(file, plain, identities), "wb") as plain:
            opened = read_archive(plain)
    except pyrage.DecryptError as error:
        raise BadSeal(_reason(str(error))) from error
    except OSError as error:
        close_all(opened.values())
        if error.errno is not None:
            raise  # not an error of pyrage's, but of the system, such as too little memory
        raise BadSeal("it has been changed or truncated") from error
    return opened


def _reason(said: str) -> str:
    if "No matching keys" in said:
        return "it is sealed for age recipients, and none of the age identities belongs to one of them"
    return f"it has been changed or truncated: {said}"


def identities_of(keys: ModelKeys) -> list[Any]:
    """Parses the age identities among keys.

    Raises:
        ServingError: INVALID_ARGUMENT if one is invalid (the text says where it is); FAILED_PRECONDITION if there is
            one, but pyrage is not installed.
    """
    if not keys.identities:
        return []
    pyrage, parsed = _pyrage(), []
    for text, where in keys.identities:
        try:
            parsed.append(pyrage.x25519.Identity.from_str(text))
        except pyrage.IdentityError as error:
            raise invalid(f"{where} must be an age identity: {error}") from error
    return parsed


def _recipient(pyrage: Any, text: str) -> Any:
    try:
        return pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError as error:
        if text.upper().startswith(IDENTITY_PREFIX):  # a secret, which the log must not show
            raise invalid(
                "--recipient must be an age recipient (age1...); was an age identity, which is secret"
            ) from error
        raise invalid(f"--recipient must be an age recipient (age1...); was {text!r}: {error}") from error


def _pyrage() -> Any:
    with needs("age"):
        import pyrage
    return pyrage


@contextmanager
def _beside(work: Callable[[IO[bytes]], None], mode: str) -> Iterator[IO[bytes]]:
    """Runs `work` in a thread with one end of a pipe; the `with` block gets the other end.

    Args:
        work: Reads or writes its end of the pipe.
        mode: The mode of that end: "rb" or "wb".

    Raises:
        Exception: The exception of the work, unless its pipe was closed. If the block has also raised an exception,
            this one replaces it.
    """
    ends = os.pipe()
    theirs, ours = ends if mode == "rb" else reversed(ends)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(theirs, mode, _PIPE_BYTES) as end:
                work(end)
        except BaseException as error:  # raised below, in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="age", daemon=True)
    thread.start()
    try:
        with os.fdopen(ours, "wb" if mode == "rb" else "rb", _PIPE_BYTES) as end:
            yield end
    finally:
        thread.join()
        if failed and not isinstance(failed[0], BrokenPipeError):
            raise failed[0]

"""The Store protocol: lists the files of a place that models are downloaded from, and reads their bytes."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

_URL = re.compile(
    r"(?P<scheme>[a-z0-9+.-]*)://(?P<user>[^\s/?#'\"@]+@)?(?P<rest>[^\s?'\"]*)(?P<query>\?[^\s'\"]*)?", re.IGNORECASE
)
_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
_VALUE = re.compile(r"(?<==)[^&#]*[^&#:,.;]")

CHUNK = 1 << 20
"""The number of bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file in a store.

    Attributes:
        path: The path below the store's URI, with slashes.
        size: The file's size in bytes; -1 if the store does not say.
        tag: An ETag or a digest, which changes if the file's bytes change.
        sha256: The expected SHA-256 of the file's bytes, in hexadecimal; empty if the store does not say.
        unpack: Whether the file is an archive of the model's files.
        key: The store's own name for the file.
    """

    path: str
    size: int
    tag: str
    sha256: str = ""
    unpack: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """The content below a store's URI.

    Attributes:
        files: All files.
        version: The version number of the files if the store has one; None if the numbers are those of folders, or if
            there are no numbers.
        settled: Whether the files are complete; false if something may still be writing them.
    """

    files: Sequence[RemoteFile]
    version: int | None = None
    settled: bool = True


class Store(Protocol):
    """The files of one model in remote storage, below a URI. Methods block, and are called by one thread at a time."""

    def list(self) -> Listing:
        """Lists the current content.

        Raises:
            StoreError: The store cannot be reached, or returns an error.
        """

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a file, beginning at an offset.

        Raises:
            StoreError: The bytes cannot be read; `Changed` if the file is gone, or differs from the listed one.
        """


class StoreError(Exception):
    """An error of a store; the text names the URI, without the secrets in it.

    Args:
        text: The text, which may contain secrets in URLs.
    """

    def __init__(self, text: str) -> None:
        super().__init__(without_secrets(text))


class Changed(StoreError):
    """A listed file is gone or has changed; listing the store again shows what exists now."""


def without_secrets(text: str) -> str:
    """The text, with the users, passwords and values of queries in its URLs replaced by `***`.

    Azure's URIs name a container in the place of the user, which is no secret.
    """
    return _URL.sub(_masked, text)


def _masked(url: re.Match[str]) -> str:
    user = url["user"] or ""
    if user and url["scheme"].lower() not in _CONTAINERS:
        user = "***@"
    return f"{url['scheme']}://{user}{url['rest']}" + _VALUE.sub("***", url["query"] or "")

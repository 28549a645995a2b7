"""The Store protocol: lists the files of a place that models are downloaded from, and reads their bytes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

CHUNK = 1 << 20
"""Bytes that are read at a time."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a store.

    Attributes:
        path: Below the store's URI, with slashes.
        size: Its bytes; -1 where the store does not say.
        tag: Another one for other bytes: an ETag or a digest.
        sha256: What its bytes must hash to, in hexadecimal; empty where the store does not say.
        unpack: Whether it is an archive of the files that are meant.
        key: How the store itself calls it.
    """

    path: str
    size: int
    tag: str
    sha256: str = ""
    unpack: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """What is below a store's URI.

    Attributes:
        files: All files.
        version: The version that they are, where the store numbers them; None where folders do, or nobody.
        settled: Whether nobody can be in the midst of writing them.
    """

    files: Sequence[RemoteFile]
    version: int | None = None
    settled: bool = True


class Store(Protocol):
    """One URI. Its methods block, and are called by one thread at a time."""

    def list(self) -> Listing:
        """What is there now.

        Raises:
            StoreError: It cannot be asked.
        """

    def read(self, file: RemoteFile, offset: int) -> Iterator[bytes]:
        """The bytes of a file from an offset on.

        Raises:
            StoreError: They cannot be read; `Changed` where the file is gone, or is another one than was listed.
        """


class StoreError(Exception):
    """Why a store gives nothing; the text names the URI."""


class Changed(StoreError):
    """What was listed is not there any more: another look tells what is."""

"""An HTTP request, whose body is in memory if it is small and otherwise in a file, and its answer."""

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Self

from headrace_server.processes import memory_file
from headrace_server.services.kept import Count

SMALL_BYTES = 64 << 10
"""A body up to this size is kept in memory, and is parsed there."""


CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
"""Headers that let a web page of any origin call the API."""

_SIZE_BYTES = 4


def gzip_size(data: bytes) -> int:
    """The expanded size that gzip data claim in their last four bytes."""
    return int.from_bytes(data[-_SIZE_BYTES:], "little")


class Body:
    """The body of a request, filled as it arrives.

    Args:
        is_gzip: Whether the body is compressed.
    """

    def __init__(self, *, is_gzip: bool = False) -> None:
        self.is_gzip = is_gzip
        self.size = 0
        self._chunks: list[bytes] = []
        self._file: int | None = None

    @classmethod
    def in_file(cls, file: int, size: int, *, is_gzip: bool) -> Self:
        """A body that is complete in a file, given by its descriptor, which is closed with it."""
        body = cls(is_gzip=is_gzip)
        body._file, body.size = file, size
        return body

    def add(self, chunk: bytes) -> None:
        """Adds the next bytes."""
        self.size += len(chunk)
        if self._file is None and self.size <= SMALL_BYTES:
            self._chunks.append(chunk)
            return
        if self._file is None:
            self._spill()
        self._write(chunk)

    @property
    def data(self) -> bytes | None:
        """The whole body; None if it is in a file."""
        return b"".join(self._chunks) if self._file is None else None

    @property
    def expanded_size(self) -> int:
        """The size of the expanded body, if it is compressed and claims its true size."""
        if not self.is_gzip:
            return self.size
        data = self.data
        if data is None:
            assert self._file is not None
            data = os.pread(self._file, _SIZE_BYTES, max(0, self.size - _SIZE_BYTES))
        return max(self.size, gzip_size(data))

    def detach(self) -> int:
        """The descriptor of a file with the whole body, which the calling function must close.

        Call this only once, and not for an empty body.
        """
        if self._file is None:
            self._spill()
        file, self._file = self._file, None
        assert file is not None
        return file

    def close(self) -> None:
        """Frees the file, unless it was passed on."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _spill(self) -> None:
        self._file = memory_file.create()
        for chunk in self._chunks:
            self._write(chunk)
        self._chunks.clear()

    def _write(self, chunk: bytes) -> None:
        assert self._file is not None
        memory_file.append(self._file, chunk)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """An HTTP request, as the APIs get it from any transport.

    Attributes:
        method: The method, in capitals.
        path: The path as it was sent, percent-encoded, without the query.
        query: The query with its question mark; empty if there is none.
        origin: The `origin` header; empty if there is none.
        body: The body; the code that created it closes it.
        headers: Headers by name, in lower case.
        certificate: The client's certificate in DER, which the transport has verified; empty if there is none.
        peer: The caller's address; empty if unknown.
    """

    method: str
    path: str
    query: str = ""
    origin: str = ""
    body: Body = field(default_factory=Body)
    headers: Mapping[bytes, bytes] = field(default_factory=dict)
    certificate: bytes = b""
    peer: str = ""

    def header(self, name: str) -> str:
        """The value of a header, by its name in lower case; empty if it was not sent."""
        return self.headers.get(name.encode(), b"").decode("latin-1").strip()

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path + self.query


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer; the transport adds Date and Content-Length.

    Attributes:
        status: The HTTP status code.
        body: The whole body, or its beginning.
        headers: Further headers.
        chunks: Further parts, each sent as soon as it exists; the transport closes the iterator, even if the caller has
            disconnected. None for a complete answer.
        keep: The object that counts later GETs of the same path and query, if this answer is valid for them until the
            server's state changes; otherwise None.
        fresh: With `keep`: the seconds after which the answer is no longer valid in any case; None means no such limit.
    """

    status: int
    body: bytes | memoryview
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes, None] | None = None
    keep: Count | None = None
    fresh: float | None = None

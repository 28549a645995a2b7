"""An HTTP request, whose body lies in memory while it is small and in a file once it is not, and its answer."""

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Self

from headrace_server.processes import memory_file
from headrace_server.services.kept import Count

SMALL_BYTES = 64 << 10
"""A body up to here is kept in memory, and is parsed where it came in."""


CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
"""Headers that let a browser's page of any origin call the API."""

_SIZE_BYTES = 4


def gzip_size(data: bytes) -> int:
    """The size that gzip data says it expands to, in its last four bytes."""
    return int.from_bytes(data[-_SIZE_BYTES:], "little")


class Body:
    """The body of a request, as it comes in.

    Args:
        is_gzip: Whether it is compressed.
    """

    def __init__(self, *, is_gzip: bool = False) -> None:
        self.is_gzip = is_gzip
        self.size = 0
        self._chunks: list[bytes] = []
        self._file: int | None = None

    @classmethod
    def in_file(cls, file: int, size: int, *, is_gzip: bool) -> Self:
        """One that lies as a whole in a file, by its descriptor, which is closed with it."""
        body = cls(is_gzip=is_gzip)
        body._file, body.size = file, size
        return body

    def add(self, chunk: bytes) -> None:
        """Takes the next bytes of it."""
        self.size += len(chunk)
        if self._file is None and self.size <= SMALL_BYTES:
            self._chunks.append(chunk)
            return
        if self._file is None:
            self._spill()
        self._write(chunk)

    @property
    def data(self) -> bytes | None:
        """All of it; None if it lies in a file."""
        return b"".join(self._chunks) if self._file is None else None

    @property
    def expanded_size(self) -> int:
        """Bytes of it once it is expanded, if it is compressed and says the truth."""
        if not self.is_gzip:
            return self.size
        data = self.data
        if data is None:
            assert self._file is not None
            data = os.pread(self._file, _SIZE_BYTES, max(0, self.size - _SIZE_BYTES))
        return max(self.size, gzip_size(data))

    def detach(self) -> int:
        """The descriptor of a file with all of it, for the caller to close. Once, and not for an empty body."""
        if self._file is None:
            self._spill()
        file, self._file = self._file, None
        assert file is not None
        return file

    def close(self) -> None:
        """Frees the file, unless it was handed on."""
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
    """A request.

    Attributes:
        method: In capitals.
        path: As it was sent, percent-encoded, without the query.
        query: What follows the path, with its question mark; empty for none.
        origin: The header of that name; empty for none.
        body: Closed by who made it.
        headers: By name, in lower case.
        certificate: The client's own, in DER, which the transport has verified; empty for none.
        peer: The caller's address; empty where it is not known.
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
        """The value of a header, by its name in lower case; empty for one that was not sent."""
        return self.headers.get(name.encode(), b"").decode("latin-1").strip()

    @property
    def target(self) -> str:
        """Path and query."""
        return self.path + self.query


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What is sent back; Date and Content-Length come from the transport.

    Attributes:
        status: A number of HTTP's.
        body: All of it, or the beginning.
        headers: The others.
        chunks: What follows the body, each part sent when it is there; the transport closes it, also where the caller
            has left. None for an answer that is whole.
        keep: Where it answers every GET of the same path and query until the server's state changes: who counts those
            that get it.
    """

    status: int
    body: bytes | memoryview
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes, None] | None = None
    keep: Count | None = None

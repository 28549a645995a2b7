"""A file's bytes, read piece by piece as they are needed, so that a large file uses no memory and is not mapped."""

import os
from pathlib import Path

_WINDOW = 1 << 20


class FileBytes:
    """A file that can be sliced: `file[8:16]` returns bytes.

    If somebody truncates the file, a slice has fewer bytes. A mapped file would crash the process (SIGBUS).

    Args:
        path: The file, open until `close`, or for the length of a `with` block.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._at = 0
        self._window = b""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, span: slice) -> bytes:
        start, stop, _ = span.indices(self._size)
        first = start - self._at
        if first < 0 or stop - self._at > len(self._window):
            # Reads no more than the file has: Python would otherwise allocate the whole window, even for a file of a
            # few KB.
            size = min(max(_WINDOW, stop - start), self._size - start)
            self._window = os.pread(self._file.fileno(), size, start)
            self._at, first = start, 0
        return self._window[first : first + stop - start]

    def __enter__(self) -> "FileBytes":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

"""Finds words in an ONNX file without searching the data of its weights, which are most of the file."""

from collections.abc import Collection, Iterator
from pathlib import Path

from headrace_server.backends.onnx.file_bytes import FileBytes
from headrace_server.backends.onnx.structure import RAW_DATA, fields, initializers

_LARGE = 64 << 10  # bytes of a weight whose data are not searched
_CHUNK = 1 << 20


def mentioned(path: Path, words: Collection[bytes]) -> set[bytes]:
    """The given words that occur in a model's file, outside the data of its weights.

    A file that is not a valid model is searched as a whole. Searching 20 MB of weights would
    take most of the time that loading them takes, and hold the interpreter lock, for which other models' batches wait.

    Raises:
        OSError: The file cannot be read.
    """
    with FileBytes(path) as file:
        try:
            data = list(_data_of_weights(file)) if len(file) >= _LARGE else []
        except (ValueError, IndexError):
            data = []
        found: set[bytes] = set()
        for piece in _pieces(file, data, max(map(len, words)) - 1):
            found.update(word for word in words if word in piece)
        return found


def _data_of_weights(file: FileBytes) -> Iterator[tuple[int, int]]:
    """Where the data of each large weight begin and end, in the order of the file.

    Raises:
        ValueError: The file is not a model.
        IndexError: The file is not a model.
    """
    for begins, ends in initializers(file):
        if ends - begins >= _LARGE:
            yield from ((at, to) for key, at, to in fields(file, begins, ends) if key == RAW_DATA)


def _pieces(file: FileBytes, left_out: Collection[tuple[int, int]], overlap: int) -> Iterator[bytes]:
    """The parts of a file that are not left out, in pieces.

    Each piece repeats the end of the piece before it, where a word may begin.
    """
    at = 0
    for begins, ends in (*left_out, (len(file), len(file))):
        for start in range(at, begins, _CHUNK):
            yield file[max(at, start - overlap) : min(start + _CHUNK, begins)]
        at = ends

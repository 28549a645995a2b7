"""Compares the bytes of models' files, except the data of weights, to recognise models that differ only in these.

Comparing takes a few microseconds. Decoding a small model's graph and computing its digest takes a tenth of the time of
its whole load.
"""

from collections.abc import Iterator
from threading import Lock
from weakref import WeakValueDictionary

from google.protobuf.message import DecodeError

from headrace_server.backends.onnx.graph import Graph
from headrace_server.backends.onnx.header import message_class
from headrace_server.backends.onnx.signatures import Found
from headrace_server.backends.onnx.structure import RAW_DATA, fields, initializers, is_left_out

MOST_BYTES = 1 << 20
"""The size of the largest files that are compared. They are read as a whole, so they must not be large."""


class Layout:
    """The bytes of a model's file without the data of its weights, and the properties of its graph.

    Args:
        content: The file's content.
        graph: The properties of the model's graph.

    Attributes:
        found: The signatures of a loaded model with this layout, if nothing else decides about them; None before such
            a model is loaded.

    Raises:
        google.protobuf.message.DecodeError, ValueError, IndexError: The content is not an ONNX model.
    """

    def __init__(self, content: bytes, graph: Graph) -> None:
        self.graph = graph
        self.found: Found | None = None
        self._parts: list[tuple[int, int, bytes]] = []
        at = 0
        for start, end in (*_data_of_weights(content), (len(content), len(content))):
            self._parts.append((at, start, content[at:start]))
            at = end

    def fits(self, content: bytes) -> bool:
        """Whether a file of the same size differs only in its weights' data, so that `graph` describes it, too."""
        return all(content[start:end] == part for start, end, part in self._parts)


class Layouts:
    """The layouts of the models that are loaded, one for each size of a file. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: WeakValueDictionary[int, Layout] = WeakValueDictionary()
        self._graphs: WeakValueDictionary[int, Graph] = WeakValueDictionary()

    def find(self, content: bytes) -> Layout | None:
        """The layout of a file, given its content; None if none is known."""
        with self._lock:
            known = self._known.get(len(content))
        return known if known is not None and known.fits(content) else None

    def may_know(self, size: int) -> bool:
        """Whether the layout of a file of this size is known."""
        return size in self._known

    def is_second(self, size: int, graph: Graph) -> bool:
        """Records the graph of a file of this size, and returns whether it is time to determine the layout.

        A layout is worth its cost if the previous file of this size had the same graph, and no layout of this size is
        known.
        """
        if size > MOST_BYTES:
            return False
        with self._lock:
            before, self._graphs[size] = self._graphs.get(size), graph
            return before is graph and size not in self._known

    def add(self, content: bytes, graph: Graph) -> Layout | None:
        """Remembers the layout of a file with this content and graph, for as long as the caller keeps it.

        Returns: The layout; None if it cannot be determined.
        """
        try:
            layout = Layout(content, graph)
        except (DecodeError, ValueError, IndexError):
            return None
        with self._lock:
            return self._known.setdefault(len(content), layout)


def _data_of_weights(content: bytes) -> Iterator[tuple[int, int]]:
    """Where the data of weights begin and end, except for weights that decide properties of the graph."""
    weights = message_class("ModelProto").FromString(content).graph.initializer
    for weight, (begins, ends) in zip(weights, initializers(content), strict=True):
        spans = [(at, to) for key, at, to in fields(content, begins, ends) if key == RAW_DATA]
        if is_left_out(weight) and len(spans) == 1:  # if there are several, only the last one counts
            yield from spans

"""The files of an ONNX model, and copies of them in memory, so that sessions do not depend on the files afterwards.

ONNX Runtime maps external data. Overwriting a mapped file would change the answers of a loaded model, and truncating it
would crash the process (SIGBUS). So headrace reads the data and passes them to ONNX Runtime.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnxruntime as ort

from headrace_protos import Code
from headrace_server.backends.onnx.external_data import KEY, ExternalData, ExternalTensor, external_data_of
from headrace_server.backends.onnx.graph import Graph, graph_of, read_graph
from headrace_server.backends.onnx.layouts import Layout, Layouts
from headrace_server.backends.onnx.mentions import mentioned
from headrace_server.backends.onnx.values import ort_value
from headrace_server.backends.onnx.zipmaps import OPERATOR, without_zipmaps
from headrace_server.backends.shared import Shared
from headrace_server.errors import LoadError, unreadable

log = logging.getLogger(__name__)

SHARED_FROM = 1 << 20
"""The size in bytes from which a table is worth sharing."""


@dataclass(frozen=True, slots=True)
class FileState:
    """A snapshot of a file's metadata.

    Attributes:
        device: The device number of its file system.
        inode: The file's inode number.
        size: The file's size in bytes.
        modified_ns: When the file's content was last written, according to the file system, in ns since 1970.
        touched_ns: When anything about the file last changed, in ns since 1970; a new link to the file counts, too.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    touched_ns: int = field(compare=False)


class SharedTensor:
    """A tensor that several sessions use at the same time, without copies of their own."""

    def __init__(self, tensor: ExternalTensor) -> None:
        self.value = ort_value(tensor.read())


@dataclass(frozen=True, slots=True)
class Given:
    """Weights that have been passed to a session.

    Attributes:
        values: All weights; the session copies them, except `shared`.
        shared: Weights that the session uses in place, which must live as long as the session.
    """

    values: tuple[ort.OrtValue, ...] = ()
    shared: tuple[SharedTensor, ...] = ()


@dataclass(frozen=True)
class ModelFiles:
    """One model's own files as they were when it was loaded.

    Attributes:
        model: The ONNX file.
        states: The snapshot of each of its own files, by path; other files in the folder do not matter.
        content: The serialized model, if it is not loaded directly from its file; otherwise None.
        external: The data outside that file; None if there are none.
        shared: The objects that sessions share.
        layouts: The layouts of loaded models.
        layout: The layout of the ONNX file if `layouts` has it.
    """

    model: Path
    states: Mapping[Path, FileState]
    content: bytes | None
    external: ExternalData | None
    shared: Shared
    layouts: Layouts
    layout: Layout | None

    @classmethod
    def of(cls, model: Path, shared: Shared) -> "ModelFiles":
        """Reads where a model's data are, but not the data.

        Raises:
            ServingError: A file cannot be read, or is invalid.
            google.protobuf.message.DecodeError: It is not an ONNX model.
        """
        layouts = shared.get(Layouts, Layouts)
        try:
            state = _state(model)
            layout = _recognised(model, state.size, layouts)
            content, external = _read(model) if layout is None else (None, None)
        except OSError as error:
            raise unreadable(model, error) from error
        files = external.files if external is not None else ()
        states = {model: state, **{file: _readable_state(file) for file in files}}
        return cls(model, states, content, external, shared, layouts, layout)

    @property
    def size(self) -> int:
        """The size of the files on disk."""
        return sum(state.size for state in self.states.values())

    @property
    def source(self) -> str | bytes:
        """The object that ONNX Runtime should load: the path if possible, which saves a copy."""
        return str(self.model) if self.content is None else self.content

    def graph(self, runtime: tuple[int, int]) -> tuple[Graph | None, Layout | None]:
        """The properties of the model's graph, and the layout by which similar models are recognised.

        Args:
            runtime: The version of ONNX Runtime that runs the model.

        Raises:
            OSError: The file cannot be read.
        """
        if self.layout is not None:
            return self.layout.graph, self.layout
        graph = read_graph(self.model, runtime, self.shared)
        if graph is None or self.content is not None or not self.layouts.is_second(self.size, graph):
            return graph, None
        content = self.model.read_bytes()
        is_same = graph_of(content, runtime, self.shared) is graph  # the file may have changed
        return graph, self.layouts.add(content, graph) if is_same else None

    def give(self, options: ort.SessionOptions, *, share: bool) -> Given:
        """Reads the external data and passes them to a session that is about to be created.

        Args:
            options: The session's options.
            share: Whether the session may use memory that other sessions also use; it must then run on the CPU.

        Returns: The passed objects, which must live until the session has been created.

        Raises:
            ServingError: A file cannot be read, or is too short.
        """
        if self.external is None:
            return Given()
        shared = {tensor.name: self._shared(tensor) for tensor in self.external.tensors if share and _is_shared(tensor)}
        values = {
            tensor.name: shared[tensor.name].value if tensor.name in shared else ort_value(tensor.read())
            for tensor in self.external.tensors
        }
        # ONNX Runtime gets the data, so it never opens the files. It copies the data, except those that are also passed
        # as initializers: these it uses in place.
        options.add_external_initializers(list(values), list(values.values()))
        for name, tensor in shared.items():
            options.add_initializer(name, tensor.value)
        return Given(tuple(values.values()), tuple(shared.values()))

    def check_unchanged(self) -> None:
        """Checks that the files have not changed since they were read.

        Raises:
            LoadError: FAILED_PRECONDITION if one of its own files has changed.
        """
        if changed := self._changed():
            message = f"{self.model} is not loaded again: {', '.join(changed)} has changed since it was loaded"
            raise LoadError(Code.FAILED_PRECONDITION, message)

    def check_whole(self) -> None:
        """Checks that the files were not written to while they were read.

        Raises:
            LoadError: FAILED_PRECONDITION if a file was written to, so that the data may be partly old and partly new.
        """
        if changed := self._changed():
            raise LoadError(Code.FAILED_PRECONDITION, f"{', '.join(changed)} has changed while the model was loaded")

    @property
    def is_unchanged(self) -> bool:
        """Whether none of its own files has changed."""
        return not self._changed()

    def _changed(self) -> list[str]:
        return [path.name for path, state in self.states.items() if _state_or_none(path) != state]

    def _shared(self, tensor: ExternalTensor) -> SharedTensor:
        state = self.states[tensor.file]
        key = ("onnx", state, state.touched_ns, tensor.offset, tensor.dtype, tensor.shape)
        return self.shared.get(key, partial(SharedTensor, tensor))


def _recognised(model: Path, size: int, layouts: Layouts) -> Layout | None:
    """The layout of a file, if it is known; such a file has no external data, and nothing else that `_read` looks for.

    Raises:
        OSError: The file cannot be read.
    """
    if not layouts.may_know(size) or not str(model).isprintable():
        return None
    with open(model, "rb", buffering=0) as file:
        return layouts.find(file.readall())


def _read(model: Path) -> tuple[bytes | None, ExternalData | None]:
    """The model to load from memory, and the external data; weights are copied only if necessary.

    Raises:
        OSError: The file cannot be read.
    """
    if not str(model).isprintable():  # perhaps not UTF-8, which ONNX Runtime requires of a path: the content is read
        words = {KEY, OPERATOR}
    elif not (words := mentioned(model, {KEY, OPERATOR})):
        return None, None
    content = model.read_bytes()
    if OPERATOR in words:
        content, zipmaps = without_zipmaps(content)
        for zipmap in zipmaps:
            log.warning(
                "%s: %s is a list of dictionaries, which no tensor can contain; the tensor that it is made from is "
                "served instead, with a column for each class (%s), as if skl2onnx had been given zipmap=False",
                model,
                zipmap.output,
                ", ".join(zipmap.classes),
            )
    external = external_data_of(model.parent, content) if KEY in words else None
    return (content if external is None else external.model), external


def _is_shared(tensor: ExternalTensor) -> bool:
    return tensor.only_gathered and tensor.size >= SHARED_FROM


def _state(path: Path) -> FileState:
    stat = os.stat(path)
    return FileState(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _readable_state(path: Path) -> FileState:
    try:
        return _state(path)
    except OSError as error:
        raise unreadable(path, error) from error


def _state_or_none(path: Path) -> FileState | None:
    try:
        return _state(path)
    except OSError:
        return None

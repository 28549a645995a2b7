"""The files that an ONNX model is made of, and what a session is made of: copies in memory, whatever becomes of them.

ONNX Runtime maps external data. Whoever writes over a mapped file changes the answers of a model that is loaded, and
whoever cuts it short ends the process (SIGBUS). So they are read here instead, and given to it.
"""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import onnxruntime as ort

from headrace_protos import Code
from headrace_server.backends.onnx.external_data import KEY, ExternalData, ExternalTensor, external_data_of
from headrace_server.backends.onnx.values import ort_value
from headrace_server.backends.onnx.zipmaps import OPERATOR, without_zipmaps
from headrace_server.backends.shared import Shared
from headrace_server.errors import LoadError, unreadable

log = logging.getLogger(__name__)

_CHUNK = 1 << 20

SHARED_FROM = 1 << 20
"""Bytes from which a table is worth sharing."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file is like from outside.

    Attributes:
        device: Of its file system.
        inode: Its number there.
        size: Its bytes.
        modified_ns: When its content was last written, or is said to have been.
        touched_ns: When anything of it was last changed, which also a new link to it does.
    """

    device: int
    inode: int
    size: int
    modified_ns: int
    touched_ns: int = field(compare=False)


class SharedTensor:
    """A tensor that several sessions use at the same time, without a copy of their own."""

    def __init__(self, tensor: ExternalTensor) -> None:
        self.value = ort_value(tensor.read())


@dataclass(frozen=True, slots=True)
class Given:
    """Weights that a session has been given.

    Attributes:
        values: All of them, of which it makes copies.
        shared: Those that it uses as they are, and that must be kept for as long as it is.
    """

    values: tuple[ort.OrtValue, ...] = ()
    shared: tuple[SharedTensor, ...] = ()


@dataclass(frozen=True)
class ModelFiles:
    """One model's own files, as they were when it was loaded.

    Attributes:
        model: The ONNX file.
        states: What each of its own files was, by path; other files of the folder do not count.
        content: The serialized model, where it is not to be loaded from its file as it is; else None.
        external: What it has outside that file; None for nothing.
        shared: Where sessions find what they share.
    """

    model: Path
    states: Mapping[Path, FileState]
    content: bytes | None
    external: ExternalData | None
    shared: Shared

    @classmethod
    def of(cls, model: Path, shared: Shared) -> "ModelFiles":
        """Reads where a model's data are, not yet the data.

        Raises:
            ServingError: A file cannot be read, or makes no sense.
            google.protobuf.message.DecodeError: It is no ONNX model.
        """
        try:
            state = _state(model)
            content, external = _read(model)
        except OSError as error:
            raise unreadable(model, error) from error
        files = external.files if external is not None else ()
        states = {model: state, **{file: _readable_state(file) for file in files}}
        return cls(model, states, content, external, shared)

    @property
    def size(self) -> int:
        """Its bytes on disk."""
        return sum(state.size for state in self.states.values())

    @property
    def source(self) -> str | bytes:
        """What ONNX Runtime is to load: the path where it can be told one, which spares a copy."""
        return str(self.model) if self.content is None else self.content

    def give(self, options: ort.SessionOptions, *, share: bool) -> Given:
        """Reads the external data and gives them to a session that is about to be made.

        Args:
            options: The session's.
            share: Whether it may use memory that other sessions use, too: it must run on the CPU.

        Returns:
            What was given, which must be kept until the session has been made.

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
        # It copies these, and so never opens a file; of those that it is then given once more it keeps the memory.
        options.add_external_initializers(list(values), list(values.values()))
        for name, tensor in shared.items():
            options.add_initializer(name, tensor.value)
        return Given(tuple(values.values()), tuple(shared.values()))

    def check_unchanged(self) -> None:
        """Makes sure that what is read again is what was read before.

        Raises:
            LoadError: FAILED_PRECONDITION, one of its own files has changed.
        """
        changed = [path.name for path, state in self.states.items() if _state_or_none(path) != state]
        if changed:
            message = f"{self.model} is not loaded once more: {', '.join(changed)} has changed since it was loaded"
            raise LoadError(Code.FAILED_PRECONDITION, message)

    def check_whole(self) -> None:
        """Makes sure that nobody wrote into the files while they were read.

        Raises:
            LoadError: FAILED_PRECONDITION, somebody did, so that what was read may be part old and part new.
        """
        changed = [path.name for path, state in self.states.items() if _state_or_none(path) != state]
        if changed:
            raise LoadError(Code.FAILED_PRECONDITION, f"{', '.join(changed)} has changed while it was loaded")

    def _shared(self, tensor: ExternalTensor) -> SharedTensor:
        state = self.states[tensor.file]
        key = ("onnx", state, state.touched_ns, tensor.offset, tensor.dtype, tensor.shape)
        return self.shared.get(key, partial(SharedTensor, tensor))


def _read(model: Path) -> tuple[bytes | None, ExternalData | None]:
    """What of a model is to be loaded from memory, and what it has outside; its weights are not copied for nothing.

    Raises:
        OSError: It cannot be read.
    """
    if not str(model).isprintable():  # ONNX Runtime takes no path that is not UTF-8
        words = {KEY, OPERATOR}
    elif not (words := _mentioned(model, {KEY, OPERATOR})):
        return None, None
    content = model.read_bytes()
    if OPERATOR in words:
        content, zipmaps = without_zipmaps(content)
        for zipmap in zipmaps:
            log.warning(
                "%s: %s is a list of dictionaries, which no tensor can carry; the tensor behind it is served, with a "
                "column for each class (%s), as skl2onnx writes it with zipmap=False",
                model,
                zipmap.output,
                ", ".join(zipmap.classes),
            )
    external = external_data_of(model.parent, content) if KEY in words else None
    return (content if external is None else external.model), external


def _mentioned(path: Path, words: Collection[bytes]) -> set[bytes]:
    """Which of some words a file holds, read piece by piece: it may be large."""
    found: set[bytes] = set()
    longest = max(map(len, words))
    with path.open("rb") as file:
        before = b""
        while piece := file.read(_CHUNK):
            found.update(word for word in words if word in before + piece)
            before = piece[-longest:]
    return found


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

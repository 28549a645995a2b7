"""Opens a published version as the server would: `model.onnx` on ONNX Runtime, `model.tflite` on LiteRT."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from headrace_batching.task import Arrays
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import MODEL_FILE
from headrace_toolkit.lite import LITE_FILE
from headrace_toolkit.measure import Size, size_in_files, size_of
from headrace_toolkit.running import OnnxModel
from headrace_toolkit.sources.auto import load
from headrace_toolkit.sources.base import Exported, Origin, Source
from headrace_toolkit.sources.files import kind_of, sha256_of


class Model(Protocol):
    """A model that can be run: with one thread, on any number of rows."""

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs."""

    def run(self, inputs: Arrays) -> Arrays:
        """One run over all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published version, ready to run.

    Attributes:
        name: The model and the version, as in `digits/2`.
        source: The file as the framework reads it.
        model: The file as the server runs it.
        size: Measures the version's files, and how long they take to load.
    """

    name: str
    source: Source
    model: Model
    size: Callable[[], Size]


def open_version(place: str) -> Published:
    """Opens a version.

    Args:
        place: The version's folder, or an ONNX or TFLite file.

    Raises:
        ToolkitError: The version cannot be read, or the runtime does not load it.
    """
    file = model_of(place)
    if file.suffix == Path(LITE_FILE).suffix:
        lite = _LiteVersion(file)
        size = partial(size_in_files, [file], partial(_LiteVersion, file))
        return Published(name=name_of(place), source=lite, model=lite, size=size)
    return Published(name=name_of(place), source=load(file), model=OnnxModel(file), size=partial(size_of, file))


def name_of(place: str) -> str:
    """The model and the version, as in `digits/2`."""
    path = Path(place).absolute()
    return f"{path.parent.name}/{path.name}"


def model_of(place: str) -> Path:
    """The model's file in a version's folder, or the file itself.

    Raises:
        ToolkitError: The folder has no model in it.
    """
    path = Path(place)
    if not path.is_dir():
        return path
    for name in (MODEL_FILE, LITE_FILE):
        if (path / name).is_file():
            return path / name
    raise ToolkitError(f"{place} contains neither {MODEL_FILE} nor {LITE_FILE}: name the folder of one version")


class _LiteVersion:
    """A TFLite file in the server's own backend, with the names that its metadata gives to its tensors.

    Raises:
        ToolkitError: LiteRT is not installed, or does not load the file.
    """

    def __init__(self, file: Path) -> None:
        kind_of(file)
        require("ai_edge_litert.interpreter", "TFLite files", "tflite")
        from importlib.metadata import version

        from headrace_server.backends.tflite_impl import load_tflite

        try:
            self._backend = load_tflite(file, BackendOptions())
        except ServingError as error:
            raise ToolkitError(error.message) from error
        if DEFAULT_SIGNATURE not in self._backend.signatures:
            found = ", ".join(self._backend.signatures)
            raise ToolkitError(f"{file} has no signature {DEFAULT_SIGNATURE}; it has {found}")
        framework = f"LiteRT {version('ai-edge-litert')}"
        self.origin = Origin(name=file.name, kind="tflite", framework=framework, sha256=sha256_of(file))

        self.signature = _with_free_batch(self._backend.signatures[DEFAULT_SIGNATURE])

    def run(self, inputs: Arrays) -> Arrays:
        """One run over all rows.

        Raises:
            ToolkitError: LiteRT refuses the inputs.
        """
        try:
            return self._backend.run(DEFAULT_SIGNATURE, inputs, list(self.signature.outputs))
        except ServingError as error:
            raise ToolkitError(f"{self.origin}: {error.message}") from error

    def export(self, folder: Path) -> Exported:
        """Always raises: a published version is measured, not converted."""
        del folder
        raise ToolkitError(f"{self.origin} is published: headrace convert reads the file itself")


def _with_free_batch(signature: Signature) -> Signature:
    """The signature of a model that takes any number of rows, for a file without metadata, which declares one row."""
    if not signature.batched:
        return signature
    return replace(signature, inputs=_free(signature.inputs), outputs=_free(signature.outputs))


def _free(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    return {alias: replace(spec, shape=(None, *spec.shape[1:])) for alias, spec in specs.items()}

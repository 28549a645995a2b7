"""The Source protocol: a trained model in its framework, its own answers, and its export to ONNX."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The origin of a model, as in reports and cards.

    Attributes:
        name: The file or folder without the path before it, and the function: `model.onnx`, `net.py:trained`.
        kind: A word for programs: `onnx`, `torch`, `keras`, `sklearn`, `xgboost`, `lightgbm`, `tflite`, `savedmodel`.
        framework: The framework and its version for people, as in `PyTorch 2.15.0`.
        sha256: The SHA-256 of the file's bytes, or of a folder's files in the order of their names; hexadecimal.
    """

    name: str
    kind: str
    framework: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} ({self.framework})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """A user's specifications of a source, in addition to its name.

    Attributes:
        inputs: The inputs by name, for a framework that does not record them; the first axis is the batch axis. A
            source that records its inputs refuses them.
        outputs: Names for the outputs, in order; empty means the source's own.
        build: `file.py:function` that makes the module for the weights of a state dict.
        trust_pickle: Whether files that run their author's code may be loaded.
        example: Rows to trace the model with, by input name; None if the user gave no data.
    """

    inputs: Mapping[str, TensorSpec] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    build: str = ""
    trust_pickle: bool = False
    example: Arrays | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The result of an export.

    Attributes:
        model: The ONNX file, without external data unless it would be too large.
        notes: Messages for the user, one sentence each.
        labels: The classes by index, if the source knows them.
    """

    model: Path
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


class Source(Protocol):
    """A trained model. Its `run` and the ONNX file that it exports use the same names for inputs and outputs."""

    @property
    def origin(self) -> Origin:
        """The origin of the model."""

    @property
    def signature(self) -> Signature:
        """The model's inputs and outputs. Axis 0 is None if the number of rows may vary."""

    def run(self, inputs: Arrays) -> Arrays:
        """The framework's own answers, in inference mode.

        Args:
            inputs: An array for each input of the signature, with its dtype.

        Returns:
            An array for each output of the signature.

        Raises:
            ToolkitError: The framework refuses these inputs.
        """

    def export(self, folder: Path) -> Exported:
        """Writes the model as ONNX into an empty folder.

        Raises:
            ToolkitError: The model cannot be exported to ONNX; the text names the operator or the user's line of code.
        """


@runtime_checkable
class Trainable(Protocol):
    """A source with a module that steps may prune, shrink or train; it came from `file.py:function`."""

    def module(self) -> Any:
        """A deep copy of the framework's module, for the caller to change."""

    def with_module(self, module: Any) -> Source:
        """A source with the same names and origin for another module."""

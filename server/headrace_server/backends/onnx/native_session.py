"""Sessions of headrace_native, which can also run without the interpreter lock.

They use the runtime of the module `onnxruntime` through its C API. A model gets such a session if its inputs and
outputs are tensors of numbers, and it runs only on the CPU; any other model gets an `onnxruntime.InferenceSession`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnxruntime as ort

from headrace_batching.task import Array, Arrays
from headrace_server.backends.onnx.names import CPU, METADATA_KEY, TYPE_NAMES

if TYPE_CHECKING:
    import headrace_native


@dataclass(frozen=True, slots=True)
class Declared:
    """An input or output, as `onnxruntime.NodeArg` describes it.

    Attributes:
        name: The tensor's name.
        type: The tensor's type, such as `tensor(float)`.
        shape: The tensor's dimensions; for one that varies, its name, or None if it has no name.
    """

    name: str
    type: str
    shape: Sequence[int | str | None]


class NativeSession:
    """Implements the `InferenceSession` methods that this package uses. Any thread.

    Args:
        session: A `headrace_native.OnnxSession`.
        inputs: The name of each input, its dtype's number, and its shape.
        outputs: The same for each output.
        overridable: The same for each initializer that a request may replace.
        has_arena: Whether the session keeps memory in an arena.

    Attributes:
        native: The `headrace_native.OnnxSession`.
    """

    def __init__(
        self,
        session: "headrace_native.OnnxSession",
        inputs: Sequence[tuple[str, int, Sequence[int | str | None]]],
        outputs: Sequence[tuple[str, int, Sequence[int | str | None]]],
        overridable: Sequence[tuple[str, int, Sequence[int | str | None]]],
        *,
        has_arena: bool,
    ) -> None:
        self.native = session
        sides = (inputs, outputs, overridable)
        self._inputs, self._outputs, self._overridable = [[_declared(*tensor) for tensor in side] for side in sides]
        self._has_arena = has_arena

    def get_inputs(self) -> Sequence[Declared]:
        """The inputs."""
        return self._inputs

    def get_outputs(self) -> Sequence[Declared]:
        """The outputs."""
        return self._outputs

    def get_overridable_initializers(self) -> Sequence[Declared]:
        """The initializers that a request may replace."""
        return self._overridable

    def get_providers(self) -> list[str]:
        """The names of the session's execution providers."""
        return [CPU]

    def get_modelmeta(self) -> Any:
        """The model's metadata; only the entry about signatures is read."""
        found = self.native.metadata(METADATA_KEY)
        return SimpleNamespace(custom_metadata_map={} if found is None else {METADATA_KEY: found})

    def get_session_options(self) -> Any:
        """The session's options; only the one about the arena is kept."""
        return SimpleNamespace(enable_cpu_mem_arena=self._has_arena)

    def run(self, names: Sequence[str] | None, inputs: Arrays, options: Any = None) -> list[Array]:
        """Computes the outputs with these names, or all outputs. The arrays are views of ONNX Runtime's memory.

        Raises:
            RuntimeError: The run failed; the text is that of `onnxruntime`'s exception.
        """
        wanted = list(names or (output.name for output in self._outputs))
        # `ascontiguousarray` makes an array of shape [1] from a scalar.
        feed = [(name, np.ascontiguousarray(each), not each.ndim) for name, each in inputs.items()]
        return [np.asarray(value) for value in self.native.run(wanted, feed, options)]


Session: TypeAlias = ort.InferenceSession | NativeSession


def open_native(model: str | bytes, options: ort.SessionOptions) -> NativeSession | None:
    """A session of headrace_native; None if that is not installed, or cannot open the model.

    Args:
        model: The model's file, or its content.
        options: The session's options.
    """
    try:
        import headrace_native

        session = headrace_native.OnnxSession(options, model)
    except Exception:  # `onnxruntime` opens the model instead, or says why it cannot
        return None
    return _with_declared(session, options)


class Opening:
    """Native sessions that are opened on a thread of their own, in the order of their models. Any thread.

    Args:
        models: The models' files, or their contents.
        options: The options of the sessions.
        seconds: Seconds after which no further session is begun.

    Raises:
        ImportError: headrace_native is not installed.
        RuntimeError: ONNX Runtime is too old for it, or the system has no thread left.
    """

    def __init__(self, models: Sequence[str | bytes], options: ort.SessionOptions, seconds: float) -> None:
        import headrace_native

        self._options = options
        self._native = headrace_native.OnnxOpening(options, models, seconds)

    def take(self, number: int) -> NativeSession | None:
        """Waits for a session, which the caller now owns; None if it cannot be opened, or is not opened in time.

        Args:
            number: The model's place among `models`.
        """
        session = self._native.take(number)
        return None if session is None else _with_declared(session, self._options)


def _with_declared(session: "headrace_native.OnnxSession", options: ort.SessionOptions) -> NativeSession | None:
    declared = session.declared()
    return None if declared is None else NativeSession(session, *declared, has_arena=options.enable_cpu_mem_arena)


def run_options(session: Session) -> Any:
    """New options for a run of a session."""
    return session.native.run_options() if isinstance(session, NativeSession) else ort.RunOptions()


def _declared(name: str, dtype: int, shape: Sequence[int | str | None]) -> Declared:
    return Declared(name, _NAMES[dtype], shape)


_NAMES: Mapping[int, str] = {dtype: name for name, dtype in TYPE_NAMES.items()}

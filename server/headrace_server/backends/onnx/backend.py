"""ONNX models on ONNX Runtime."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from threading import get_ident
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.backends.base import NO_RISKS, Risks
from headrace_server.backends.independence import NO_HINTS, Evidence, Hints
from headrace_server.backends.onnx.arena import LARGE_OUTPUT, arena_of
from headrace_server.backends.onnx.failures import failure
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.native_session import NativeSession, Session, run_options
from headrace_server.backends.onnx.on_gpu import OnGpu
from headrace_server.backends.onnx.patience import Patience
from headrace_server.backends.onnx.providers import FATAL
from headrace_server.backends.onnx.values import as_text, run_ort_values
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError


class OnnxBackend:
    """One ONNX model in one session, with the signatures that its graph serves.

    Args:
        session: The model.
        signatures: The signatures by name; each names tensors of the graph.
        on_gpu: The model's resources on a GPU, which the backend now owns; None if ONNX Runtime makes the copies.
        at_once: How many batches should run at the same time; None for as many as there are threads.
        steady: Whether a run's cost depends on the shapes of its inputs alone.
        needs: Objects that must live as long as the session.
        evidence: Reasons in the model's graph to doubt that rows are independent.
        hints: Facts from the model's graph about inputs to try.
        risks: The model's operators with which a request can crash the process.
        apart: The values of the model's graph in which each row is known to depend only on the same row of the inputs.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        session: Session,
        signatures: Mapping[str, Signature],
        on_gpu: OnGpu | None = None,
        *,
        at_once: int | None = None,
        steady: bool = False,
        needs: Sequence[object] = (),
        evidence: Sequence[Evidence] = (),
        hints: Hints = NO_HINTS,
        risks: Risks = NO_RISKS,
        apart: Collection[str] = (),
    ) -> None:
        self._apart = apart
        self.evidence = evidence
        self.hints = hints
        self.risks = risks
        self.most_rows = None
        self.provider: str = session.get_providers()[0]
        self._session: Session | None = session
        self._signatures = signatures
        self._on_gpu = on_gpu
        self._at_once = at_once
        self._steady = steady
        self._patience = Patience()
        self._needs = needs
        self._renamed = {name for name, signature in signatures.items() if _is_renamed(signature)}
        self._running: dict[int, Any] | None = None  # the options of the current runs, by thread
        self._arena = arena_of(session)
        # Arrays of these two dtypes must be converted before `session.run` takes them.
        self._strings = has_type(DataType.DT_STRING, signatures)
        self._bfloat16 = has_type(DataType.DT_BFLOAT16, signatures)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default`, and those that the metadata or `model.toml` define."""
        return self._signatures

    @property
    def steady(self) -> bool:
        """Whether the model runs only on the CPU, and a run's duration does not depend on the values of the inputs."""
        return self._steady and self.exact

    @property
    def exact(self) -> bool:
        """Whether the model runs only on the CPU."""
        return self._session is not None and self._session.get_providers() == [CPU]

    def rows_are_apart(self, signature: str) -> bool:
        """Whether the graph proves that the rows of each of the signature's outputs are independent."""
        return self.exact and all(spec.name in self._apart for spec in self._signatures[signature].outputs.values())

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs the session. The outputs are views of ONNX Runtime's memory, which is freed with the last view."""
        if self._running is None:
            return self._run_signature(signature, inputs, outputs)
        options = self._running[get_ident()] = self._run_options()
        try:
            return self._run_signature(signature, inputs, outputs, options)
        finally:
            del self._running[get_ident()]

    def expect_termination(self) -> None:
        """Keeps the options of each run, through which ONNX Runtime can be asked to end the run."""
        self._running = {}

    def _run_options(self) -> Any:
        return ort.RunOptions() if self._session is None else run_options(self._session)

    def terminate(self, thread: int) -> None:
        """Ends a thread's run before its next operator."""
        if self._running is not None and (options := self._running.get(thread)) is not None:
            options.terminate = True

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Like `run`, but ONNX Runtime logs nothing, and a run is ended if its values make it very long."""
        quiet = self._run_options()
        quiet.log_severity_level = FATAL
        if self._steady:
            return self._run_signature(signature, inputs, outputs, quiet)
        with self._patience.ends(quiet):
            return self._run_signature(signature, inputs, outputs, quiet)

    def _run_signature(self, signature: str, inputs: Arrays, outputs: Sequence[str], options: Any = None) -> Arrays:
        session = self._session
        if session is None:
            raise ServingError(Code.UNAVAILABLE, "the model has been unloaded")
        declared = self._signatures[signature]
        if self._strings:
            inputs = {
                alias: as_text(alias, array) if array.dtype == object else array for alias, array in inputs.items()
            }
        names, feed = outputs, inputs
        if signature in self._renamed:
            feed = {declared.sendable[alias].name: array for alias, array in inputs.items()}
            names = [declared.outputs[alias].name for alias in outputs]
        try:
            return dict(zip(outputs, self._run(session, names, feed, options), strict=True))
        except ServingError:
            raise
        except Exception as error:
            raise failure(declared, inputs, error) from error

    def native_run(self, signature: str) -> Mapping[str, object] | None:
        """See `base.RunsNatively`."""
        session, declared = self._session, self._signatures[signature]
        if not isinstance(session, NativeSession):
            return None
        inputs = {spec.name: dtype_of(spec.dtype) for spec in declared.inputs.values()}

        def grew(shapes: Sequence[Sequence[int]]) -> None:
            if (arena := self._arena) is not None:
                pairs = zip(inputs.items(), shapes, strict=True)
                arena.grew({name: (tuple(shape), dtype) for (name, dtype), shape in pairs})

        outputs = [(alias, declared.outputs[alias].name) for alias in declared.every_output]
        return {
            "session": session.native,
            "inputs": list(inputs),
            "outputs": outputs,
            "grown": grew,
            "large": LARGE_OUTPUT,
        }

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array for a joined input: in page-locked memory if the model is on a GPU.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        return np.empty(shape, dtype) if self._on_gpu is None else self._on_gpu.empty(shape, dtype)

    def fit_batching(self, options: Options) -> Options:
        """On a GPU, allows only as many batches at a time as instances, so that other requests form the next batch."""
        if self._on_gpu is not None:
            options = self._on_gpu.fit_batching(options)
        return options if self._at_once is None else replace(options, max_running_batches=self._at_once)

    def device_memory(self) -> Mapping[int, int]:
        """The number of bytes that the load took on a GPU, by the GPU's number."""
        return {} if self._on_gpu is None else self._on_gpu.memory

    def close(self) -> None:
        """Frees the session; arrays from its runs stay valid."""
        if self._on_gpu is not None:
            self._on_gpu.close()
        self._session = self._on_gpu = self._arena = None
        self._needs = ()

    def free_unused(self) -> None:
        """See `base.KeepsMemory`."""
        if (arena := self._arena) is not None:
            arena.free_if_idle()

    def _run(self, session: Session, names: Sequence[str], inputs: Arrays, options: Any) -> Sequence[Array]:
        if self._on_gpu is not None:
            return self._on_gpu.run(names, inputs)
        if self._bfloat16:
            return run_ort_values(session, names, inputs)
        arena = self._arena
        if arena is not None:
            arena.before_run(inputs)
        outputs: Sequence[Array] = session.run(names, inputs, options)
        if arena is not None:
            arena.ran(inputs, outputs)
        return outputs


def has_type(dtype: DataType, signatures: Mapping[str, Signature]) -> bool:
    """Whether any input or output has this type."""
    specs = (spec for s in signatures.values() for spec in (*s.sendable.values(), *s.outputs.values()))
    return any(spec.dtype == dtype for spec in specs)


def _is_renamed(signature: Signature) -> bool:
    return any(alias != spec.name for alias, spec in (*signature.inputs.items(), *signature.outputs.items()))

"""The Backend protocol: what the server requires of a runtime."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from headrace_batching import Options
from headrace_batching.cpus import affine_cpus, schedulable_cpus
from headrace_batching.task import Array, Arrays
from headrace_server.backends.ability import Ability
from headrace_server.backends.independence import Evidence, Hints
from headrace_server.backends.shared import Shared
from headrace_server.backends.signature import Signature
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.run import Config
from headrace_server.config.tensorrt import TensorrtOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """An operator's settings for a runtime; each backend reads the fields that apply to it.

    Attributes:
        intra_op_threads: The number of threads within one operator; 0 lets the runtime choose.
        inter_op_threads: The number of operators that run at the same time; 0 lets the runtime choose.
        onnxruntime: Options of ONNX Runtime only.
        gpu_memory_fraction: The share of a GPU's memory that a model may use if nothing else limits it; 0 means all.
        saved_model_tags: The tags of the SavedModel's graph to load; they must match exactly.
        prefer_tflite_model: Whether a version's `model.tflite` takes precedence over its SavedModel.
        tflite_interpreters: The number of interpreters of one TFLite model, each of which runs one batch at a time.
        signatures: The settings in `model.toml` for this model's signatures, by name.
        tensorrt: Options of TensorRT.
        batching: How the requests for this model become batches; None if each runs alone.
        shared: Objects that models share, mainly weights.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    onnxruntime: OnnxruntimeOptions = field(default_factory=OnnxruntimeOptions)
    gpu_memory_fraction: float = 0.0
    saved_model_tags: tuple[str, ...] = ("serve",)
    prefer_tflite_model: bool = False
    tflite_interpreters: int = 1
    signatures: Mapping[str, SignatureOptions] = field(default_factory=dict)
    tensorrt: TensorrtOptions = field(default_factory=TensorrtOptions)
    batching: Options | None = None
    shared: Shared = field(default_factory=Shared)

    @classmethod
    def of(cls, config: Config) -> "BackendOptions":
        """The options that a server's configuration gives to all models, before any model overrides them."""
        both = config.tensorflow_session_parallelism
        cpus = schedulable_cpus()
        by_default = cpus if cpus < affine_cpus() else 0  # runtimes count CPUs and ignore quotas
        return cls(
            intra_op_threads=max(0, config.tensorflow_intra_op_parallelism or both) or by_default,
            inter_op_threads=max(0, config.tensorflow_inter_op_parallelism or both),
            onnxruntime=config.onnxruntime,
            gpu_memory_fraction=config.per_process_gpu_memory_fraction,
            saved_model_tags=tuple(filter(None, config.saved_model_tags.split(","))) or ("serve",),
            prefer_tflite_model=config.prefer_tflite_model,
            tflite_interpreters=max(1, config.num_tflite_pools) * max(1, config.num_tflite_interpreters_per_pool),
            tensorrt=config.tensorrt,
        )


@dataclass(frozen=True, slots=True)
class Risks:
    """Operators of a model with which a request that fits the signature can crash the process.

    Attributes:
        fatal: Operators that have crashed the process, and others of the same kind.
        untried: Operators for which this is unknown.
        growing: Operators whose memory use depends on values in a request.
        lasting: Operators that can run for hours on values in a request, and that no time limit ends.
    """

    fatal: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()
    lasting: tuple[str, ...] = ()


NO_RISKS = Risks()


class Backend(Protocol):
    """One loaded model in one runtime. Its owner closes it once, after all runs have ended."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures by name; they never change."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Computes the wanted outputs, by alias. Any thread, several at the same time.

        Args:
            signature: One of the backend's signatures.
            inputs: An array for every input of the signature, by alias. They have already been checked against the
                signature. The backend must not keep them.
            outputs: Aliases of the signature's outputs.

        Raises:
            ServingError: The runtime refused the request; with the runtime's code and text if it has them.
        """

    def close(self) -> None:
        """Frees the model's memory."""


@runtime_checkable
class BatchMemory(Protocol, metaclass=Ability):
    """A backend with memory of its own in which batches are joined: page-locked if they are then copied to a device."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array for one joined input, contiguous, with uninitialised elements. Any batch thread.

        The caller does not return the array. Its memory may be reused once the last view of it is gone. That may be as
        soon as `run` has returned, whether the batch is then answered, fails, or is run again in halves. A
        `buffer_pool.BufferPool` provides such arrays.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left; the batch is then run again in halves.
        """


@runtime_checkable
class OnDevices(Protocol, metaclass=Ability):
    """A backend whose model may use GPU memory."""

    def device_memory(self) -> Mapping[int, int]:
        """The number of bytes that the model is known to use on each GPU, by the GPU's number. Any thread."""


@runtime_checkable
class KeepsMemory(Protocol, metaclass=Ability):
    """A backend whose runtime keeps memory for later runs."""

    def free_unused(self) -> None:
        """Frees the memory that no run in progress needs, if there was no run for a while. Any thread."""


@runtime_checkable
class ChoosesProvider(Protocol, metaclass=Ability):
    """A backend whose runtime has several execution providers."""

    @property
    def provider(self) -> str:
        """The name of the preferred provider, such as CPUExecutionProvider."""


@runtime_checkable
class FitsBatching(Protocol, metaclass=Ability):
    """A backend that can run only batches of certain sizes, or runs some sizes faster."""

    def fit_batching(self, options: Options) -> Options:
        """The parameters for batching this model, derived from the operator's parameters. Called once, after the load.

        Sizes that the model cannot run are left out, so that a request with more rows than it can ever run is refused
        before it waits; fixed sizes, such as those of CUDA graphs, are `allowed_batch_sizes`.
        """


@runtime_checkable
class Streaming(Protocol, metaclass=Ability):
    """A backend whose model may stream several answers to a request."""

    @property
    def streams(self) -> bool:
        """Whether this model streams answers."""

    @property
    def answers_once(self) -> bool:
        """Whether this model can also answer once, through `run`."""

    def stream(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> AsyncGenerator[Arrays, None]:
        """The answers to one request, each computed when it is asked for. Any event loop, several at the same time.

        Args:
            signature: One of the backend's signatures.
            inputs: As for `run`.
            outputs: As for `run`.

        Raises:
            ServingError: The model has failed; no answer follows.
        """


@runtime_checkable
class Terminable(Protocol, metaclass=Ability):
    """A backend that can end a run in progress."""

    def expect_termination(self) -> None:
        """Prepares for `terminate`, which makes each run slightly slower. Called once, before the first run."""

    def terminate(self, thread: int) -> None:
        """Ends the run in progress in a thread, if there is one. Any thread.

        Args:
            thread: The thread's number in Python.
        """


@runtime_checkable
class MayBeDown(Protocol, metaclass=Ability):
    """A backend whose model may be unavailable for a while."""

    @property
    def is_down(self) -> bool:
        """Whether no run can be expected to begin soon."""


@runtime_checkable
class RunsElsewhere(Protocol, metaclass=Ability):
    """A backend that may let other processes run the model."""

    @property
    def runs_elsewhere(self) -> bool:
        """Whether a run only waits for another process."""


@runtime_checkable
class MayEndProcess(Protocol, metaclass=Ability):
    """A backend whose runtime leaves some requirements of operators unchecked, so that a run can crash the process."""

    @property
    def risks(self) -> Risks:
        """The operators of the model with which a request can crash the process."""


@runtime_checkable
class NamesRuntime(Protocol, metaclass=Ability):
    """A backend that names its runtime."""

    runtime: str
    """`onnxruntime`, `tensorrt`, `tensorflow`, `tflite` or `python`; Triton's name where Triton has one."""


@runtime_checkable
class Steady(Protocol, metaclass=Ability):
    """A backend that can sometimes tell that its runs only compute."""

    @property
    def steady(self) -> bool:
        """Whether a run takes about as long as the one before: it only computes, and waits for nothing.

        Then, once its runs have been fast several times in a row, a connection thread may run a batch itself, since the
        run will not keep the thread from its connections for long.
        """


@runtime_checkable
class RunsNatively(Protocol, metaclass=Ability):
    """A backend whose model headrace_native may run without the interpreter."""

    def native_run(self, signature: str) -> Mapping[str, object] | None:
        """How headrace_native can run a signature's batches with the same results as `run`; None if it cannot.

        The items are the fields of `headrace_native.SessionFields` or `headrace_native.WorkerFields`.
        """


@runtime_checkable
class Triable(Protocol, metaclass=Ability):
    """A backend that helps to determine whether the rows of a batch are independent."""

    @property
    def exact(self) -> bool:
        """Whether equal rows at equal positions in batches of equal size give equal bits, as on a CPU."""

    @property
    def evidence(self) -> Sequence[Evidence]:
        """Reasons in the model's file to doubt that rows are independent."""

    @property
    def hints(self) -> Hints:
        """Facts from the model's file about inputs to try."""

    @property
    def most_rows(self) -> int | None:
        """The maximum number of rows of a batch; None means any number."""

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Like `run`, but the runtime writes nothing to stderr if it refuses the inputs, which is normal in a test.

        Raises:
            ServingError: As for `run`.
        """


@runtime_checkable
class ProvesRows(Protocol, metaclass=Ability):
    """A backend that can sometimes tell from a model's description that the rows are independent."""

    def rows_are_apart(self, signature: str) -> bool:
        """Whether the rows are known to be independent; otherwise a test must decide."""


@runtime_checkable
class Settled(Protocol, metaclass=Ability):
    """A backend that runs a batch differently if its rows are known to be independent."""

    def settle(self, batched: Mapping[str, bool]) -> None:
        """Tells the backend for each signature, by name, whether its rows are independent.

        Called once, before the first request.
        """

"""The Backend protocol: what the server requires of a runtime."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from headrace_batching import Options
from headrace_batching.cpus import affine_cpus, schedulable_cpus
from headrace_batching.task import Array, Arrays
from headrace_server.backends.independence import Evidence
from headrace_server.backends.shared import Shared
from headrace_server.backends.signature import Signature
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.run import Config
from headrace_server.config.tensorrt import TensorrtOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """What an operator decides about a runtime; each backend reads what means something to it.

    Attributes:
        intra_op_threads: Threads inside one operator; 0 lets the runtime choose.
        inter_op_threads: Operators at once; 0 lets the runtime choose.
        onnxruntime: What is ONNX Runtime's alone.
        gpu_memory_fraction: Part of a GPU's memory that a model may take where nothing else limits it; 0 for all.
        saved_model_tags: Which of a SavedModel's graphs is wanted: the one with exactly these tags.
        prefer_tflite_model: Whether a version's `model.tflite` goes before its SavedModel.
        tflite_interpreters: Interpreters of one TFLite model, each of which runs one batch at a time.
        signatures: What `model.toml` says of this model's signatures, by name.
        tensorrt: For TensorRT.
        batching: How the requests for this model become batches; None where each runs alone.
        shared: What models have in common, weights above all.
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
        """Those of a run, before any model says otherwise."""
        both = config.tensorflow_session_parallelism
        cpus = schedulable_cpus()
        unless_told = cpus if cpus < affine_cpus() else 0  # runtimes count CPUs, and do not ask for a quota
        return cls(
            intra_op_threads=max(0, config.tensorflow_intra_op_parallelism or both) or unless_told,
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
    """Operators of a model with which a request may end the process, although it fits the signature.

    Attributes:
        fatal: Those that have done so, or are of a kind that has.
        untried: Those of which it is not known.
        growing: Those that take as much memory as a request says.
    """

    fatal: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    growing: tuple[str, ...] = ()


NO_RISKS = Risks()


class Backend(Protocol):
    """One loaded model in one runtime. Whoever loads it closes it, once, when nothing runs any more."""

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """Its entries by name; the same for as long as it lives."""

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Computes the outputs asked for, each under its alias. Any thread, several at once.

        Args:
            signature: One of its own.
            inputs: An array for every input of the signature, checked against it, by alias. Not kept.
            outputs: Aliases of the signature's outputs.

        Raises:
            ServingError: The runtime refused; with the runtime's code and text where it has them.
        """

    def close(self) -> None:
        """Frees the model's memory."""


@runtime_checkable
class BatchMemory(Protocol):
    """A backend with memory of its own for batches to be joined in: page-locked, where they go on to a device."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array for one joined input, contiguous, its elements not set. Batch threads, several at once.

        Nobody hands it back. Its memory may be used again once the last view of it has gone: when `run` has returned,
        whether the batch is answered then, has failed, or is run again in halves. `BufferPool` gives out such arrays.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, there is no memory left; the batch is then run again in halves.
        """


@runtime_checkable
class OnDevices(Protocol):
    """A backend whose model may lie on GPUs."""

    def device_memory(self) -> Mapping[int, int]:
        """The bytes that the model takes on each GPU, by its number, as far as the backend knows. Any thread."""


@runtime_checkable
class FitsBatching(Protocol):
    """A backend that cannot run batches of any size, or runs some sizes faster."""

    def fit_batching(self, options: Options) -> Options:
        """The parameters that this model is to be batched with, made of an operator's. Called once, after the load.

        A size that the model cannot run is left out, so that a request of more rows than it can ever run is refused
        before it waits; fixed sizes, such as those of CUDA graphs, are `allowed_batch_sizes`.
        """


@runtime_checkable
class Streaming(Protocol):
    """A backend whose model may answer a request many times."""

    @property
    def streams(self) -> bool:
        """Whether this model does."""

    @property
    def answers_once(self) -> bool:
        """Whether this model can answer once as well, by `run`."""

    def stream(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> AsyncGenerator[Arrays, None]:
        """The answers to one request, each made when it is asked for. Any event loop, several at once.

        Args:
            signature: One of its own.
            inputs: As for `run`.
            outputs: As for `run`.

        Raises:
            ServingError: The model has failed; no answer follows.
        """


@runtime_checkable
class Terminable(Protocol):
    """A backend that can end a run which goes on."""

    def expect_termination(self) -> None:
        """Prepares for `terminate`, which costs each run a little. Called once, before the first run."""

    def terminate(self, thread: int) -> None:
        """Ends the run that goes on in a thread, if there is one. Any thread.

        Args:
            thread: The number that Python knows it by.
        """


@runtime_checkable
class MayBeDown(Protocol):
    """A backend whose model may be gone for a while."""

    @property
    def is_down(self) -> bool:
        """Whether no run can be expected to begin soon."""


@runtime_checkable
class MayEndProcess(Protocol):
    """A backend whose runtime does not check all that an operator needs, and ends the process where that is missing."""

    @property
    def risks(self) -> Risks:
        """The operators of the model with which a request may do so."""


@runtime_checkable
class NamesRuntime(Protocol):
    """A backend that says what it runs models with."""

    runtime: str
    """`onnxruntime`, `tensorrt`, `tensorflow`, `tflite` or `python`: Triton's names of backends, where it has them."""


@runtime_checkable
class Steady(Protocol):
    """A backend that may know of itself that its runs wait for nothing."""

    @property
    def steady(self) -> bool:
        """Whether a run takes about as long as the one before: it computes, and waits for no device, file or network.

        What has been quick may then run on a thread that carries connections, when it has nothing else to do.
        """


@runtime_checkable
class Triable(Protocol):
    """A backend that helps to find out whether the rows of a batch are independent."""

    @property
    def exact(self) -> bool:
        """Whether equal rows in equal places of batches of one size give equal bits: not so on every device."""

    @property
    def evidence(self) -> Sequence[Evidence]:
        """What the model's file says against independent rows."""

    @property
    def most_rows(self) -> int | None:
        """Rows that a batch may have; None for any number."""

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """As `run`, but the runtime writes nothing to stderr where it refuses: a trial asks it for what it may refuse.

        Raises:
            ServingError: As `run`.
        """


@runtime_checkable
class ProvesRows(Protocol):
    """A backend that may know from a model's description that the rows of a batch are independent."""

    def rows_are_apart(self, signature: str) -> bool:
        """Whether they are known to be; otherwise it has to be tried."""


@runtime_checkable
class Settled(Protocol):
    """A backend that runs a batch in another way where its rows are known to be independent."""

    def settle(self, batched: Mapping[str, bool]) -> None:
        """Says of each signature, by name, whether its rows are. Called once, before the first request."""

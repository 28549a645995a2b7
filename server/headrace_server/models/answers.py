"""How large the answer to a request will be, so that memory for it can be reserved before a model computes it."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from math import prod
from typing import Protocol

from headrace_batching.task import Array, Arrays
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError
from headrace_server.models.schedulers import Outputs


class Memory(Protocol):
    """The share of a transport's memory that a call, or one of several requests on it, has reserved."""

    def reserve(self, size: int) -> None:
        """Reserves memory for outputs of this many bytes.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if this much memory is not available.
        """

    def apart(self) -> "Memory":
        """Creates a reservation for one of several requests on the call."""

    def release(self) -> None:
        """Returns the memory that was reserved to the transport."""


class NeverFits(ServingError):
    """A call needs more memory than it could get even if it were the only call."""


MEMORY: ContextVar[Memory | None] = ContextVar("headrace-memory", default=None)
"""The reservation of the call that the current task answers.

None if the transport does not limit memory, or reserves it itself, as the native one does for calls that it decodes.
"""


def reserve_apart() -> Callable[[], None]:
    """Gives the current task, which answers one of several requests on a call, a reservation of its own.

    Returns a function that releases its memory.
    """
    memory = MEMORY.get()
    if memory is None:
        return lambda: None
    own = memory.apart()
    MEMORY.set(own)
    return own.release


SAMPLE = 1000
"""The maximum number of strings from which the mean length of all strings is estimated."""


class AnswerSizes:
    """The sizes of the outputs of one version. In one event loop.

    Args:
        signatures: The version's signatures, by name.
    """

    def __init__(self, signatures: Mapping[str, Signature]) -> None:
        self._signatures = signatures
        self._row_bytes: dict[tuple[str, str], float] = {}

    def expected(self, signature: str, outputs: Outputs, rows: int) -> int:
        """The approximate number of bytes that the outputs of a request take, judging by the last outputs.

        Before any outputs are known, dimensions that vary count as 1, and strings as 0 bytes.

        Args:
            signature: The name of the signature.
            outputs: Aliases of the signature's outputs.
            rows: The number of the request's rows; 1 if axis 0 is not the batch axis.
        """
        return int(rows * sum(self._row(signature, alias) for alias in outputs))

    def learn(self, signature: str, outputs: Arrays, rows: int) -> None:
        """Records the outputs of a request; the arguments are as for `expected`."""
        for alias, array in outputs.items():
            self._row_bytes[signature, alias] = _bytes_of(array) / max(1, rows)

    def doubt(self, signature: str, outputs: Outputs) -> None:
        """Halves the expected sizes of outputs of varying size, after they have caused a request to be refused.

        Otherwise, one very large answer could make the server refuse all later requests: the expected sizes are
        corrected only by answers.
        """
        for alias in outputs:
            if (known := self._row_bytes.get((signature, alias))) is not None:
                self._row_bytes[signature, alias] = known / 2

    def _row(self, signature: str, alias: str) -> float:
        return max(self._row_bytes.get((signature, alias), 0), self._least(signature, alias))

    def _least(self, signature: str, alias: str) -> float:
        declared = self._signatures[signature]
        spec = declared.outputs[alias]
        sizes = spec.shape[1:] if declared.batched else spec.shape
        each = 0 if spec.array_dtype.hasobject else spec.array_dtype.itemsize
        return each * prod(size for size in sizes if size is not None)


def _bytes_of(array: Array) -> float:
    if not array.dtype.hasobject:
        return array.nbytes
    some = array.flat[:SAMPLE]
    return array.size / max(1, len(some)) * sum(map(len, some))

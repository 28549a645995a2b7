"""The answer to an inference request, for each protocol to write in its own way."""

import math
from dataclasses import dataclass

from headrace_batching.task import Array
from headrace_server.services.open_inference.strings import pack


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output in an answer.

    Attributes:
        name: The output's alias in the signature.
        datatype: The protocol's name for the output's type.
        array: The output's values.
        elsewhere: Whether the output has been written to shared memory instead.
        binary: Over REST, whether the output follows the JSON as bytes.
    """

    name: str
    datatype: str
    array: Array
    elsewhere: bool = False
    binary: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's dimensions."""
        return self.array.shape

    @property
    def size(self) -> int:
        """The number of the output's elements."""
        return math.prod(self.array.shape)

    def raw(self) -> bytes:
        """The output's bytes: row by row, little-endian, each string after its length."""
        return pack(self.array.flat) if self.array.dtype.hasobject else self.array.tobytes()


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """The answer to an inference request.

    Attributes:
        model: The model's name.
        version: The version of the servable that ran.
        id: The request's ID.
        outputs: The outputs, sorted by name, as in Triton's ONNX Runtime backend.
    """

    model: str
    version: int
    id: str
    outputs: tuple[OutputTensor, ...] = ()

"""What an inference request is answered with, for each door to write in its own way."""

import math
from dataclasses import dataclass

from headrace_batching.task import Array
from headrace_server.services.open_inference.strings import pack


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output.

    Attributes:
        name: Its alias in the signature.
        datatype: The protocol's name of its type.
        array: Its values.
        elsewhere: Whether it has been written to shared memory instead.
        binary: Over REST, whether it goes as bytes behind the JSON.
    """

    name: str
    datatype: str
    array: Array
    elsewhere: bool = False
    binary: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""
        return self.array.shape

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.array.shape)

    def raw(self) -> bytes:
        """Its bytes: row by row, little-endian, strings behind their lengths."""
        return pack(self.array.flat) if self.array.dtype.hasobject else self.array.tobytes()


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """An answer.

    Attributes:
        model: The model's name.
        version: Of the servable that ran.
        id: The request's.
        outputs: Sorted by name, as Triton's ONNX Runtime backend has them.
    """

    model: str
    version: int
    id: str
    outputs: tuple[OutputTensor, ...] = ()

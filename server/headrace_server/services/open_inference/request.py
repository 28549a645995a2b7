"""An inference request that has been read from gRPC or HTTP; the checks that remain are the same for both."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace_batching import Priority
from headrace_batching.task import Array
from headrace_server.models.call import SequenceStep
from headrace_server.services.open_inference.regions import Place

Content = bytes | bytearray | memoryview | Array | Place


@dataclass(frozen=True, slots=True)
class Parameters:
    """The parameters of a request.

    Attributes:
        signature: The name of the model's signature; empty means the default.
        priority: The request's priority; None means that of the call.
        timeout: Seconds that the request may wait in the queue; None means no limit.
        empty_final_response: Whether a model that streams answers should send an empty last one.
        sequence: The request's sequence of a stateful model, and its place in it; None if it has none.
    """

    signature: str = ""
    priority: Priority | None = None
    timeout: float | None = None
    empty_final_response: bool = False
    sequence: SequenceStep | None = None


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input in a request.

    Attributes:
        name: The name, as sent.
        datatype: The datatype, as sent, so perhaps unknown.
        shape: The shape, as sent.
        content: The tensor's bytes, its values in an array of one dimension, or the location of its bytes in shared
            memory.
        label: The tensor's name in errors about its bytes; `name` if empty.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: Content
    label: str = ""


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output that a request names.

    Attributes:
        name: The name, as sent.
        classes: How many of the largest values are wanted instead of all; 0 means all.
        place: The location in shared memory to write the output to; None means in the answer.
        binary: Over REST, whether the output follows the JSON as bytes.
    """

    name: str
    classes: int = 0
    place: Place | None = None
    binary: bool = False


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request to one model.

    Attributes:
        model: The model's name.
        id: The ID, as sent; empty if there is none.
        inputs: The inputs by name.
        outputs: The wanted outputs by name; empty means all outputs.
        parameters: All other parameters.
    """

    model: str
    id: str
    inputs: Mapping[str, InputTensor]
    outputs: Mapping[str, WantedOutput] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)

    @property
    def tag(self) -> str:
        """The prefix of error messages from Triton's core."""
        return tag(self.id)


def tag(request_id: str) -> str:
    """The prefix of error messages from Triton's core, given a request's ID."""
    return f"[request id: {request_id or '<id_unknown>'}] "

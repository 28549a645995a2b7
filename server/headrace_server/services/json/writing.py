"""Writes answers as JSON, for every REST API: in the event loop if that is fast, otherwise in another process."""

from collections.abc import Callable
from math import prod
from pickle import PickleBuffer
from typing import Any

from headrace_batching.task import Arrays
from headrace_server.processes.pool import ELEMENT_BYTES, JsonProcesses

WRITTEN_ELEMENTS = 4096
"""Outputs of up to this many elements are written in the event loop: that takes a few milliseconds."""

WRITTEN_BYTES = 32 << 10
"""Messages of up to this many bytes are written in the event loop: they have about `WRITTEN_ELEMENTS` elements."""


async def written(
    processes: JsonProcesses, outputs: Arrays, write: Callable[..., bytes], *arguments: Any
) -> bytes | memoryview:
    """Returns what a function writes for some outputs, without blocking the event loop.

    Args:
        processes: The processes for long work.
        outputs: The outputs, by alias.
        write: A function at the top level of a module, called with the outputs and the arguments.
        arguments: Further arguments, which can be pickled.

    Raises:
        ServingError: As for `JsonProcesses.run`, and as raised by the function.
    """
    elements = sum(prod(array.shape) for array in outputs.values())
    if elements <= WRITTEN_ELEMENTS:
        return write(outputs, *arguments)
    return await processes.run(_written, write, dict(outputs), *arguments, size=elements * ELEMENT_BYTES)


async def written_from(processes: JsonProcesses, write: Callable[[bytes], bytes], message: bytes) -> bytes | memoryview:
    """Returns what a module's function writes for a serialized message, without blocking the event loop.

    Raises:
        ServingError: As for `JsonProcesses.run`, and as raised by the function.
    """
    if len(message) <= WRITTEN_BYTES:
        return write(message)
    return await processes.run(_written, write, message, size=2 * len(message))


def _written(write: Callable[..., bytes], *arguments: Any) -> Any:
    return PickleBuffer(write(*arguments))

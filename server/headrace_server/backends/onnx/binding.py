"""Runs an ONNX session on a GPU with one copy in and one copy out, both through page-locked memory.

Given ordinary arrays, ONNX Runtime would copy through the driver's own buffers, and block the thread during the copy.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import onnxruntime as ort

from headrace_batching.errors import let_go
from headrace_batching.task import Array, Arrays
from headrace_protos.tensor import dtype_of
from headrace_server.backends.gpu.cuda import Device, Event, PageLockedPool, Stream
from headrace_server.backends.onnx.signatures import data_type_of
from headrace_server.backends.onnx.values import array_of, element_type, ort_value


@dataclass
class _Slot:
    """The resources of one run on the device: a stream, an event, and memory for each input."""

    stream: Stream
    event: Event
    inputs: dict[str, tuple[Any, int]] = field(default_factory=dict)


class Slots:
    """A fixed number of slots for runs. The copies of one slot do not wait for those of another.

    If all are taken, the next run waits: more runs would share the device and disturb each other on the host.

    Args:
        device: The GPU, which is retained until `close`.
        count: The number of slots.
    """

    def __init__(self, device: Device, count: int) -> None:
        self.device = device.retain()
        self._idle: deque[_Slot] = deque()
        self._leave: SimpleQueue[None] = SimpleQueue()
        for _ in range(count):
            self._leave.put(None)

    @contextmanager
    def take(self) -> Iterator[_Slot]:
        """Takes, for a `with` block, the idle slot that was used last, whose memory exists already, or a new slot."""
        leave = self._leave.get()
        try:
            try:
                slot = self._idle.pop()
            except IndexError:
                slot = _Slot(self.device.stream(), self.device.event())
            try:
                yield slot
            except BaseException as error:
                # The copies of this run may still be running, and their memory is about to be used for something else.
                self.device.settle(slot.stream)
                # Otherwise the error's traceback might release the stream last, when CUDA's context is not current.
                let_go(error)
                raise
            finally:
                self._idle.append(slot)
        finally:
            self._leave.put(leave)

    def close(self) -> None:
        """Frees the slots' device memory. No run may be in progress."""
        with self.device:
            while self._idle:
                _free(self._idle.pop())
        self.device.release()


class BoundSession:
    """A session whose inputs and outputs are bound to memory on a device. Any thread.

    Args:
        session: Runs on the device; it must not have string inputs or outputs.
        slots: The slots of the session's runs on the device; several sessions may share them.
        pool: The memory of the outputs.
        kind: ONNX Runtime's name for the device's memory.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        slots: Slots,
        pool: PageLockedPool,
        *,
        kind: str = "cuda",
    ) -> None:
        self._session = session
        self._slots = slots
        self._device = slots.device
        self._pool = pool
        self._kind = kind
        self._dtypes = {output.name: dtype_of(data_type_of(output.type)) for output in session.get_outputs()}
        # Inputs and outputs of operators on the CPU are not copied.
        self._cpu_inputs = _on_cpu(session, "input", kind)
        self._cpu_outputs = _on_cpu(session, "output", kind)

    def run(self, names: Sequence[str], inputs: Arrays) -> list[Array]:
        """Computes the outputs of these names.

        Args:
            names: Names of the graph's outputs.
            inputs: Arrays by the graph's names; copied first if they are not in the pool's memory.

        Returns: Arrays in page-locked memory, which returns to the pool with their last view.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if there is no memory for a copy.
        """
        with self._device, self._slots.take() as slot:
            binding = self._session.io_binding()
            sources = self._bind_inputs(binding, inputs, slot)
            for name in names:
                place = ("cpu", 0) if name in self._cpu_outputs else (self._kind, self._device.ordinal)
                binding.bind_output(name, *place)
            self._finish(slot)
            del sources
            # Returns when the outputs are there, and releases the interpreter lock until then; ONNX Runtime has streams
            # of its own.
            self._session.run_with_iobinding(binding)
            values = binding.get_outputs()
            outputs = [self._fetch(name, value, slot) for name, value in zip(names, values, strict=True)]
            self._finish(slot)
            return outputs

    def _bind_inputs(self, binding: ort.IOBinding, inputs: Arrays, slot: _Slot) -> list[Array]:
        """Starts the copies; their sources must live until the copies have ended."""
        sources = []
        for name, array in inputs.items():
            if name in self._cpu_inputs:
                binding.bind_ortvalue_input(name, ort_value(array))
                continue
            source = self._pool.page_locked(array)
            sources.append(source)
            address = self._room(slot, name, source.nbytes)
            if source.nbytes:
                self._device.copy_in(address, source, slot.stream)
            binding.bind_input(
                name, self._kind, self._device.ordinal, element_type(source.dtype), source.shape, address
            )
        return sources

    def _room(self, slot: _Slot, name: str, size: int) -> int:
        """The address of a slot's memory for an input; the memory is replaced if it is too small."""
        memory, held = slot.inputs.get(name, (None, -1))
        if held < size:
            if memory is not None:
                del slot.inputs[name]
                memory.free()
            memory = self._device.allocate(size)
            slot.inputs[name] = (memory, size)
        return int(memory)

    def _fetch(self, name: str, value: ort.OrtValue, slot: _Slot) -> Array:
        """Starts the copy of an output."""
        if name in self._cpu_outputs:
            return array_of(value)
        array = self._pool.empty(tuple(value.shape()), self._dtypes[name])
        if array.nbytes:
            self._device.copy_out(array, value.data_ptr(), slot.stream)
        return array

    def _finish(self, slot: _Slot) -> None:
        """Returns when the slot's copies have ended."""
        self._device.record(slot.event, slot.stream)
        self._device.wait(slot.event)


def _free(slot: _Slot) -> None:
    for memory, _ in slot.inputs.values():
        memory.free()
    slot.inputs.clear()
    # The traceback of an old exception may still refer to the slot, and would otherwise keep these two alive.
    slot.stream = slot.event = None


def _on_cpu(session: ort.InferenceSession, which: str, kind: str) -> set[str]:
    """The names of a GPU session's inputs or outputs that are in CPU memory; empty for old versions of ONNX Runtime."""
    if kind == "cpu":
        return set()
    values: Sequence[ort.NodeArg] = getattr(session, f"get_{which}s")()
    memories: Sequence[Any] = getattr(session, f"get_{which}_memory_infos", list)()
    homes = {"cpu", f"{kind}pinned"}
    return {value.name for value, memory in zip(values, memories, strict=False) if memory.name.lower() in homes}

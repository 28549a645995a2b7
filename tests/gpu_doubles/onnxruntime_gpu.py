"""Sessions as on a GPU: bound memory is a `Machine`'s, and ONNX Runtime computes on the CPU.

The doubles have only the calls that headrace makes, and check that memory is the device's, not freed, and written
before a run reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from headrace_batching.task import Array
from headrace_protos.tensor import dtype_of
from headrace_server.backends.onnx.signatures import data_type_of
from headrace_server.backends.onnx.values import array_of, ort_value

from .machine import Machine, Memory

_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16


@dataclass
class Binding:
    """A double of `onnxruntime.IOBinding`."""

    session: "GpuSession"
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    values: "list[Value | ort.OrtValue]" = field(default_factory=list)

    def bind_input(
        self, name: str, kind: str, ordinal: int, element_type: Any, shape: Sequence[int], address: int
    ) -> None:
        machine, device = self.session.machine, self.session.device
        self.session.check_name(name, self.session.inputs)
        if name in self.session.on_cpu:
            raise machine.complain(f"bind_input: {name} is read on the CPU, and would have to be copied back")
        if (kind, ordinal) != ("cuda", device):
            raise machine.complain(f"bind_input: {kind} {ordinal} is not the session's device")
        dtype = self.session.inputs[name]
        if element_type != (_BFLOAT16 if dtype == "bfloat16" else dtype):
            raise machine.complain(f"bind_input: {name} is {dtype}, not {element_type}")
        memory = machine.memory_at(address, prod(shape) * dtype.itemsize, "bind_input")
        if memory.device != device:
            raise machine.complain(f"bind_input: the memory is of GPU {memory.device}")
        self.inputs[name] = (memory, address, tuple(shape), dtype)

    def bind_ortvalue_input(self, name: str, value: ort.OrtValue) -> None:
        self.session.check_name(name, self.session.inputs)
        self.inputs[name] = value

    def bind_output(self, name: str, kind: str, ordinal: int) -> None:
        self.session.check_name(name, self.session.outputs)
        if (kind, ordinal) not in {("cuda", self.session.device), ("cpu", 0)}:
            raise self.session.machine.complain(f"bind_output: {kind} {ordinal} is not the session's device")
        self.outputs[name] = kind

    def get_outputs(self) -> "list[Value | ort.OrtValue]":
        return self.values


class Value:
    """A double of `onnxruntime.OrtValue`; its memory is freed with it."""

    def __init__(self, machine: Machine, array: Array, device: int) -> None:
        self._machine = machine
        self._shape = array.shape
        self._memory = machine.new_memory(max(array.nbytes, 1), device)
        self._memory.bytes[: array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def shape(self) -> list[int]:
        return list(self._shape)

    def data_ptr(self) -> int:
        return self._memory.address if prod(self._shape) else 0

    def numpy(self) -> Array:
        raise self._machine.complain("numpy: the memory is a device's")

    def __del__(self) -> None:
        if hasattr(self, "_memory"):
            self._machine.free_memory(self._memory)


class GpuSession:
    """A double of `onnxruntime.InferenceSession` on the CUDA provider.

    As in the original, a convolution is planned for the last shape; a run with another shape counts as the machine's
    call `plan`.

    Args:
        machine: The machine whose memory it uses; the model occupies some of it until the session is closed.
        model: A file, or the contents of one.
        device: The GPU.
        on_cpu: The inputs and outputs of operators that run on the CPU.
    """

    def __init__(
        self, machine: Machine, model: Path | str | bytes, device: int = 0, on_cpu: Sequence[str] = ()
    ) -> None:
        self.machine = machine
        self.device = device
        self.on_cpu = on_cpu
        self._real = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._weights = machine.new_memory(4096, device)
        self.inputs = {arg.name: dtype_of(data_type_of(arg.type)) for arg in self._real.get_inputs()}
        self.outputs = {arg.name: dtype_of(data_type_of(arg.type)) for arg in self._real.get_outputs()}
        self.get_inputs = self._real.get_inputs
        self.get_outputs = self._real.get_outputs
        self.get_modelmeta = self._real.get_modelmeta
        self.get_overridable_initializers = self._real.get_overridable_initializers
        self.run = self._real.run
        self._planned: Any = None if has_convolutions(model) else ()

    def __del__(self) -> None:
        if hasattr(self, "_weights"):
            self.machine.free_memory(self._weights)

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def get_input_memory_infos(self) -> list[Any]:
        return self._memory_infos(self.inputs)

    def get_output_memory_infos(self) -> list[Any]:
        return self._memory_infos(self.outputs)

    def run_with_ort_values(self, names: Sequence[str], feed: Mapping[str, ort.OrtValue]) -> Any:
        return self._real.run_with_ort_values(names, feed)

    def io_binding(self) -> Binding:
        return Binding(self)

    def run_with_iobinding(self, binding: Binding) -> None:
        if missing := self.inputs.keys() - binding.inputs.keys():
            raise self.machine.complain(f"run_with_iobinding: {', '.join(sorted(missing))} is not bound")
        feed = {name: self._value(bound) for name, bound in binding.inputs.items()}
        self._plan({name: tuple(value.shape()) for name, value in feed.items()})
        values = self._real.run_with_ort_values(list(binding.outputs), feed)
        binding.values = [
            value if kind == "cpu" else Value(self.machine, array_of(value), self.device)
            for value, kind in zip(values, binding.outputs.values(), strict=True)
        ]

    def check_name(self, name: str, names: Mapping[str, Any]) -> None:
        if name not in names:
            raise self.machine.complain(f"{name} is none of {', '.join(names)}")

    def _value(self, bound: Any) -> ort.OrtValue:
        if isinstance(bound, ort.OrtValue):
            return bound
        memory, address, shape, dtype = bound
        self._check_ready(memory)
        read = memory.at(address, prod(shape) * dtype.itemsize)
        return ort_value(read.copy().view(dtype).reshape(shape))

    def _plan(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if self._planned not in ((), shapes):
            self._planned = shapes
            self.machine.calls["plan"] = self.machine.calls.get("plan", 0) + 1

    def _check_ready(self, memory: Memory) -> None:
        """Checks that an input has been copied: a session's own streams do not wait for the stream of the copy."""
        if not memory.live:
            raise self.machine.complain("run_with_iobinding: an input's memory has been freed")
        if any(memory in work.uses for stream in self.machine.streams.values() for work in list(stream.work)):
            raise self.machine.complain("run_with_iobinding: the copy of an input has not ended")

    def _memory_infos(self, names: Mapping[str, Any]) -> list[Any]:
        return [SimpleNamespace(name="Cpu" if name in self.on_cpu else "Cuda") for name in names]


def has_convolutions(model: Path | str | bytes) -> bool:
    """Whether a model, or the model in a file, has any convolution."""
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model)
    return any(node.op_type == "Conv" for node in loaded.graph.node)

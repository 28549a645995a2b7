"""The plans of the double: an ONNX model, the GPU that it was built for, and its profiles."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import onnx

VERSION = "10.13.3.9"
GPU = "9.0"

_MAGIC = b"DOUBLE-PLAN\n"

DATA_DECIDE = {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
"""Operators whose outputs' shapes cannot be derived from the inputs' shapes."""

Bounds = Sequence[Sequence[int]]


@dataclass
class Plan:
    """A serialized engine.

    Attributes:
        model: A serialized ModelProto.
        version: TensorRT's version.
        gpu: The compute capability that it was built for.
        profiles: The smallest, usual and largest shape of each input that varies.
        host: Tensors that are read or written in host memory.
        context_bytes: The device memory of each context.
        plugin: A plugin of TensorRT's own that the plan needs.
    """

    model: bytes
    profiles: list[dict[str, Bounds]] = field(default_factory=list)
    version: str = VERSION
    gpu: str = GPU
    host: list[str] = field(default_factory=list)
    context_bytes: int = 1024
    plugin: str = ""

    def serialize(self) -> bytes:
        header = json.dumps({name: value for name, value in asdict(self).items() if name != "model"}).encode()
        return _MAGIC + len(header).to_bytes(4, "big") + header + self.model

    @classmethod
    def parse(cls, data: bytes) -> "Plan":
        """ValueError: The bytes are not a plan."""
        if not data.startswith(_MAGIC):
            raise ValueError("Serialization assertion magicTagRead == kMAGIC_TAG failed.Magic tag does not match")
        start = len(_MAGIC) + 4
        stop = start + int.from_bytes(data[len(_MAGIC) : start], "big")
        return cls(data[stop:], **json.loads(data[start:stop]))


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model: ONNX's element type, and the shape with -1 for each variable dimension."""

    name: str
    elem_type: int
    shape: tuple[int, ...]
    names: tuple[str, ...]


def tensors(values: Iterable[Any], weights: Iterable[Any] = ()) -> dict[str, Tensor]:
    """The inputs by name, without those that are weights."""
    known = {weight.name for weight in weights}
    return {value.name: _tensor(value) for value in values if value.name not in known}


def _tensor(value: Any) -> Tensor:
    dims = value.type.tensor_type.shape.dim
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
    return Tensor(value.name, value.type.tensor_type.elem_type, shape, tuple(dim.dim_param for dim in dims))


def plan_of(model: onnx.ModelProto, *profiles: Mapping[str, Bounds], **more: Any) -> bytes:
    """A plan as another program might have built it."""
    return Plan(model.SerializeToString(), [dict(profile) for profile in profiles], **more).serialize()

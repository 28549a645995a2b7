"""Signatures from SignatureDefs, which SavedModels and TFLite models contain."""

from collections.abc import Iterable, Mapping

from headrace_protos import SignatureDef, TensorInfo
from headrace_protos.tensor import to_array
from headrace_server.backends.signature import Signature, TensorSpec


def read_signature(definition: SignatureDef) -> Signature:
    """The signature that a SignatureDef declares, with the unchanged SignatureDef itself.

    Inputs are in the order of their tensors' names, which is that of TensorFlow's `arg[i]`. TF Serving does not enforce
    shapes, and with batching on, axis 0 is the batch axis; here, axis 0 may be the batch axis unless an input's shape
    contradicts that.
    """
    return Signature(
        _specs(sorted(definition.inputs.items(), key=lambda item: item[1].name)),
        _specs(sorted(definition.outputs.items())),
        definition.method_name,
        batched=bool(definition.inputs) and all(map(_may_be_batched, definition.inputs.values())),
        any_shape=True,
        definition=definition,
        defaults={alias: to_array(tensor) for alias, tensor in definition.defaults.items()},
    )


def _specs(tensors: Iterable[tuple[str, TensorInfo]]) -> Mapping[str, TensorSpec]:
    return {alias: _spec(info) for alias, info in tensors}


def _spec(info: TensorInfo) -> TensorSpec:
    dims = info.tensor_shape.dim
    shape = tuple(None if dim.size < 0 else dim.size for dim in dims)
    return TensorSpec(info.name, info.dtype, shape, tuple(dim.name for dim in dims))


def _may_be_batched(info: TensorInfo) -> bool:
    """Whether the tensor's rank is known and its first dimension varies."""
    if not info.HasField("tensor_shape") or info.tensor_shape.unknown_rank:
        return False
    return bool(info.tensor_shape.dim) and info.tensor_shape.dim[0].size < 0

"""A signature as the SignatureDef that clients see."""

from collections.abc import Mapping

from google.protobuf import text_format

from headrace_protos import POOL, SignatureDef, SignatureDefMap, TensorInfo
from headrace_protos.tensor import to_proto
from headrace_server.backends.signature import Signature, TensorSpec


def signature_map(signatures: Mapping[str, Signature]) -> SignatureDefMap:
    """All signatures of a model, by name."""
    return SignatureDefMap(signature_def={name: signature_def(signature) for name, signature in signatures.items()})


def signature_def(signature: Signature) -> SignatureDef:
    """One signature: as in the model's file, or made from its declaration."""
    if signature.definition is not None:
        return signature.definition
    message = SignatureDef(
        inputs={alias: _tensor_info(spec) for alias, spec in signature.inputs.items()},
        outputs={alias: _tensor_info(spec) for alias, spec in signature.outputs.items()},
        method_name=signature.method_name,
    )
    for alias, array in signature.defaults.items():
        to_proto(array, message.defaults[alias])
    return message


def signature_text(signature: Signature) -> str:
    """One signature as a text proto, as TF Serving's errors show it."""
    return str(text_format.MessageToString(signature_def(signature), descriptor_pool=POOL))


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    info = TensorInfo(name=spec.name, dtype=spec.dtype)
    info.tensor_shape.SetInParent()
    for position, size in enumerate(spec.shape):
        name = spec.dims[position] if spec.dims else ""
        info.tensor_shape.dim.add(size=-1 if size is None else size, name=name)
    return info

"""Errors of ONNX Runtime as those of the server."""

from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.provider_options import Providers
from headrace_server.backends.onnx.providers import GPU_LIBRARIES, lacks_memory, says_no_memory
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError, invalid

# ONNX Runtime's codes (OrtErrorCode) that have a canonical code; any other is INTERNAL.
_CODES: dict[str, Code] = {
    "INVALID_ARGUMENT": Code.INVALID_ARGUMENT,
    "INVALID_PROTOBUF": Code.INVALID_ARGUMENT,
    "INVALID_GRAPH": Code.INVALID_ARGUMENT,
    "NO_SUCHFILE": Code.NOT_FOUND,
    "NO_MODEL": Code.NOT_FOUND,
    "NOT_IMPLEMENTED": Code.UNIMPLEMENTED,
}


def failure(signature: Signature, inputs: Arrays, error: Exception) -> ServingError:
    """The error that a caller gets for a failed run; if the inputs contradict each other, it says so."""
    code = _code_of(error)
    if code == Code.INTERNAL and (disagreement := signature.disagreement(inputs)):
        return invalid(f"{disagreement}, and the model refuses it: {str(error).strip()}")
    return ServingError(code, str(error))


def load_code(error: Exception, providers: Providers, options: BackendOptions) -> Code:
    """The code of a failed load."""
    code = _code_of(error)
    on_gpu = bool(providers) and providers[0][0] in GPU_LIBRARIES
    if code == Code.INTERNAL and on_gpu and lacks_memory(error, options.onnxruntime.device_id):
        return Code.RESOURCE_EXHAUSTED
    return code


def _code_of(error: Exception) -> Code:
    """The code of an error, from its text: `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ...`."""
    if says_no_memory(error):
        return Code.RESOURCE_EXHAUSTED
    parts = str(error).split(" : ", 3)
    return _CODES.get(parts[2], Code.INTERNAL) if len(parts) > 3 else Code.INTERNAL

"""Regress: which output of a signature is the result, and the conversion of its array to one value per example."""

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType, RegressionResult
from headrace_protos.tensor import enum_of
from headrace_server.backends.signature import REGRESS_METHOD, Signature, TensorSpec
from headrace_server.errors import invalid
from headrace_server.services.tf_serving.examples.decoding import INPUTS, shape_text
from headrace_server.services.tf_serving.examples.results import regressions
from headrace_server.services.tf_serving.metadata import signature_text

OUTPUTS = "outputs"


def output_of(signature: Signature) -> str | None:
    """The alias of the output that Regress needs from a signature; None if it cannot regress."""
    return _wanted(signature) if signature.features or _is_graph(signature) else None


def wanted_outputs(signature: Signature, *, check_method: bool) -> tuple[str, ...]:
    """The alias of the output that Regress needs, alone in a tuple.

    Args:
        signature: Any signature.
        check_method: Whether the signature must have been exported for this method.

    Raises:
        ServingError: INVALID_ARGUMENT if it cannot regress, as in `PreProcessRegression` of TF Serving's regressor.cc.
    """
    if check_method and signature.method_name != REGRESS_METHOD:
        raise invalid(f"Expected regression signature method_name to be {REGRESS_METHOD}. Was: {signature.method_name}")
    if not signature.features:
        _check_graph(signature)
    output = _wanted(signature)
    if output is None:
        raise invalid(f"No regression outputs found in SignatureDef: {signature_text(signature)}")
    return (output,)


def regression(signature: Signature, outputs: Arrays, examples: int) -> RegressionResult:
    """The value of each example.

    Args:
        signature: The signature of the output.
        outputs: The wanted output under its alias, a float array of shape [examples] or [examples, 1].
        examples: The number of examples that were sent.

    Raises:
        ServingError: INVALID_ARGUMENT if the output has another dtype or shape, as in `PostProcessRegressionResult` of
            TF Serving's regressor.cc.
    """
    (alias,) = wanted_outputs(signature, check_method=False)
    array = outputs[alias]
    _check_output(array, examples)
    return regressions(array.ravel())


def _is_graph(signature: Signature) -> bool:
    return len(signature.inputs) == 1 and len(signature.outputs) == 1 and INPUTS in signature.inputs


def _check_graph(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if INPUTS not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {signature_text(signature)}")


def _wanted(signature: Signature) -> str | None:
    if OUTPUTS in signature.outputs:
        return OUTPUTS
    columns = [alias for alias, spec in signature.outputs.items() if _may_be_values(spec)]
    return columns[0] if signature.features and len(columns) == 1 else None


def _may_be_values(spec: TensorSpec) -> bool:
    return spec.dtype == DataType.DT_FLOAT and (len(spec.shape) == 1 or spec.shape[1:] in ((1,), (None,)))


def _check_output(array: Array, examples: int) -> None:
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        shape = shape_text(array.shape)
        raise invalid(f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {shape}")
    if len(array) != examples:
        raise invalid(f"Input batch size did not match output batch size: {examples} vs. {len(array)}")
    got = enum_of(array.dtype)
    if got != DataType.DT_FLOAT:
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {DataType.Name(got)}")

"""Classify: the outputs of a signature that it needs, and the conversion of their arrays to classes with scores."""

from itertools import repeat
from typing import NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import ClassificationResult, Code, DataType
from headrace_protos.tensor import enum_of
from headrace_server.backends.signature import CLASSIFY_METHOD, Signature, TensorSpec
from headrace_server.errors import ServingError, invalid
from headrace_server.services.tf_serving.examples.decoding import INPUTS, shape_text
from headrace_server.services.tf_serving.examples.results import classifications
from headrace_server.services.tf_serving.metadata import signature_text

CLASSES = "classes"
SCORES = "scores"


class Wanted(NamedTuple):
    """The aliases of the two outputs, of which at least one exists."""

    classes: str | None
    scores: str | None


def wanted_outputs(signature: Signature, *, check_method: bool) -> tuple[str, ...]:
    """The aliases of the outputs that Classify needs; arguments and errors are those of `wanted`."""
    return tuple(alias for alias in wanted(signature, check_method=check_method) if alias is not None)


def wanted(signature: Signature, *, check_method: bool) -> Wanted:
    """The outputs that Classify needs from a signature.

    Args:
        signature: Any signature.
        check_method: Whether the signature must have been exported for this method.

    Raises:
        ServingError: INVALID_ARGUMENT if it cannot classify, as in `PreProcessClassification` of TF Serving's
            classifier.cc.
    """
    if check_method and signature.method_name != CLASSIFY_METHOD:
        raise invalid(
            f"Expected classification signature method_name to be {CLASSIFY_METHOD}. Was: {signature.method_name}"
        )
    if not signature.features:
        _check_graph(signature)
    found = _wanted(signature)
    if found == (None, None):
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or "scores". '
            f"Signature was: {signature_text(signature)}"
        )
    return found


def outputs_of(signature: Signature) -> Wanted | None:
    """The outputs that Classify needs from a signature; None if it cannot classify."""
    if not (signature.features or _is_graph(signature)):
        return None
    found = _wanted(signature)
    return None if found == (None, None) else found


def classification(signature: Signature, outputs: Arrays, examples: int) -> ClassificationResult:
    """The classes of each example, in the order of the model's outputs.

    Args:
        signature: The signature of these outputs.
        outputs: The wanted outputs, by alias: strings [examples, classes] and float [examples, classes].
        examples: The number of examples that were sent.

    Raises:
        ServingError: INVALID_ARGUMENT if an output has a wrong dtype or shape, or a class is not UTF-8;
            FAILED_PRECONDITION if the model has fewer or more labels than it gives scores. The texts of the first two
            are those of `PostProcessClassificationResult` in TF Serving's classifier.cc.
    """
    found = _wanted(signature)
    classes = None if found.classes is None else outputs[found.classes]
    scores = None if found.scores is None else outputs[found.scores]
    if classes is not None:
        _check_output(CLASSES, DataType.DT_STRING, classes, examples)
    if scores is not None:
        _check_output(SCORES, DataType.DT_FLOAT, scores, examples)
    if classes is not None and scores is not None and classes.shape[1] != scores.shape[1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {classes.shape[1]} vs. {scores.shape[1]}"
        )
    return _result(classes, scores, signature.labels)


def _is_graph(signature: Signature) -> bool:
    return len(signature.inputs) == 1 and len(signature.outputs) in (1, 2) and INPUTS in signature.inputs


def _check_graph(signature: Signature) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if INPUTS not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {signature_text(signature)}")


def _wanted(signature: Signature) -> Wanted:
    outputs = signature.outputs
    classes = CLASSES if CLASSES in outputs else None
    scores = SCORES if SCORES in outputs else None
    if signature.features and classes is None and scores is None:
        tables = [alias for alias, spec in outputs.items() if _may_be_scores(spec)]
        scores = tables[0] if len(tables) == 1 else None
    return Wanted(classes, scores)


def _may_be_scores(spec: TensorSpec) -> bool:
    return spec.dtype == DataType.DT_FLOAT and len(spec.shape) == 2


def _check_output(what: str, dtype: DataType, array: Array, examples: int) -> None:
    if array.ndim != 2:
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(array.shape)}")
    got = enum_of(array.dtype)
    if got != dtype:
        raise invalid(f"Expected {what} Tensor of {DataType.Name(dtype)}. Got: {DataType.Name(got)}")
    if len(array) != examples:
        raise invalid(f"Expected {what} output batch size of {examples}. Got: {len(array)}")


def _result(classes: Array | None, scores: Array | None, labels: tuple[str, ...]) -> ClassificationResult:
    if classes is None:
        assert scores is not None  # wanted_outputs has refused signatures with neither output
        columns = scores.shape[1]
        if labels and len(labels) != columns:
            message = f"The model has {len(labels)} labels for {columns} scores"
            raise ServingError(Code.FAILED_PRECONDITION, message)
        return classifications(repeat(labels or ("",) * columns), scores)
    return classifications(classes.tolist(), np.zeros(classes.shape, np.float32) if scores is None else scores)

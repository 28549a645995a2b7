"""How code outside this package answers Classify and Regress: the output to use, and its check."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace_batching.task import Arrays
from headrace_protos import DataType
from headrace_server.backends.signature import Signature
from headrace_server.services.tf_serving.examples import classification, regression
from headrace_server.services.tf_serving.examples.decoding import INPUTS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainInference:
    """How the answers of one method are made from a signature's outputs.

    Attributes:
        classes: The alias of the output with the classes, strings [n, classes]; None if there is none.
        values: The alias of the output with the scores, floats [n, classes], or the values, floats [n] or [n, 1].
        check: Takes outputs by alias and the number of Examples; raises a ServingError if no answer can be made from
            them.
        labels: The classes of the scores, by index, if the model does not return them; empty if they have no names.
    """

    classes: str | None = None
    values: str | None
    check: Callable[[Arrays, int], object]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlainExamples:
    """A signature's answers to requests that carry tf.Examples; None for a method that it cannot answer."""

    classify: PlainInference | None
    regress: PlainInference | None


def plain_examples(signature: Signature) -> PlainExamples | None:
    """How a signature answers Classify and Regress; None if its inputs are neither features nor serialized Examples."""
    if not signature.features and not _takes_serialized(signature):
        return None
    return PlainExamples(_classify(signature), _regress(signature))


def _takes_serialized(signature: Signature) -> bool:
    spec = signature.inputs.get(INPUTS)
    return spec is not None and len(signature.inputs) == 1 and spec.dtype == DataType.DT_STRING and len(spec.shape) == 1


def _classify(signature: Signature) -> PlainInference | None:
    wanted = classification.outputs_of(signature)
    if wanted is None:
        return None
    return PlainInference(
        classes=wanted.classes,
        values=wanted.scores,
        check=partial(classification.classification, signature),
        labels=signature.labels,
    )


def _regress(signature: Signature) -> PlainInference | None:
    output = regression.output_of(signature)
    if output is None:
        return None
    return PlainInference(values=output, check=partial(regression.regression, signature))

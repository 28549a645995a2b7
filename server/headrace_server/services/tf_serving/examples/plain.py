"""What answers Classify and Regress outside this package: the output that they are made of, and how it is checked."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature
from headrace_server.errors import ServingError
from headrace_server.services.tf_serving.examples import classification, regression


@dataclass(frozen=True, slots=True)
class PlainInference:
    """How the answers of one method are made of a signature's outputs.

    Attributes:
        output: The alias of the output with the scores, floats [n, classes], or the values, floats [n] or [n, 1].
        check: Takes outputs by alias and the number of Examples; raises the ServingError of those that no answer can be
            made of.
        labels: The classes of the scores, by index; empty where they have no names.
    """

    output: str
    check: Callable[[Arrays, int], object]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlainExamples:
    """A signature's answers to requests that carry tf.Examples; None for a method that it has no answer for."""

    classify: PlainInference | None
    regress: PlainInference | None


def plain_examples(signature: Signature) -> PlainExamples | None:
    """How a signature answers them; None where the model takes Examples as they are, or where they are refused."""
    if not signature.features:
        return None
    return PlainExamples(_classify(signature), _regress(signature))


def _classify(signature: Signature) -> PlainInference | None:
    try:
        wanted = classification.wanted_outputs(signature, check_method=False)
    except ServingError:
        return None
    if classification.CLASSES in wanted:
        return None  # texts
    return PlainInference(wanted[0], partial(classification.classification, signature), signature.labels)


def _regress(signature: Signature) -> PlainInference | None:
    try:
        (output,) = regression.wanted_outputs(signature, check_method=False)
    except ServingError:
        return None
    return PlainInference(output, partial(regression.regression, signature))

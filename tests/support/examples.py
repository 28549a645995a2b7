"""Requests with tf.Examples, built from headrace's own messages."""

from typing import Any

from headrace_protos import (
    BytesList,
    ClassificationRequest,
    Example,
    Feature,
    Features,
    FloatList,
    InferenceTask,
    Input,
    Int64List,
    MultiInferenceRequest,
    RegressionRequest,
)
from tests.support.calls import name_model

CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def example(**features: Any) -> Example:
    """An Example of features by name: lists of float, int or bytes, or a Feature as it is."""
    return Example(features=Features(feature={name: feature(values) for name, values in features.items()}))


def feature(values: Any) -> Feature:
    """A feature of the kind that the first value has."""
    if isinstance(values, Feature):
        return values
    if isinstance(values[0], bytes):
        return Feature(bytes_list=BytesList(value=values))
    if isinstance(values[0], float):
        return Feature(float_list=FloatList(value=values))
    return Feature(int64_list=Int64List(value=values))


def examples(*every: Example, context: Example | None = None) -> Input:
    """An Input of Examples with their shared context."""
    if context is None:
        return Input(example_list={"examples": every})
    return Input(example_list_with_context={"examples": every, "context": context})


def classify_request(*every: Example, context: Example | None = None, **spec: Any) -> ClassificationRequest:
    """A Classify of the served test model."""
    request = ClassificationRequest(input=examples(*every, context=context))
    name_model(request, **spec)
    return request


def regress_request(*every: Example, context: Example | None = None, **spec: Any) -> RegressionRequest:
    """A Regress of the served test model."""
    request = RegressionRequest(input=examples(*every, context=context))
    name_model(request, **spec)
    return request


def task(method: str, **spec: Any) -> InferenceTask:
    """One task of a MultiInference."""
    inference = InferenceTask(method_name=method)
    name_model(inference, **spec)
    return inference


def multi_request(*tasks: InferenceTask, input: Input | None = None) -> MultiInferenceRequest:  # noqa: A002
    """A MultiInference."""
    return MultiInferenceRequest(tasks=tasks, input=input)


def labelled(response: Any) -> list[list[tuple[str, float]]]:
    """The classes of each example."""
    return [[(c.label, c.score) for c in row.classes] for row in response.result.classifications]


def values(response: Any) -> list[float]:
    """The value of each example."""
    return [regression.value for regression in response.result.regressions]

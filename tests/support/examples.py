"""Requests that carry tf.Examples, made by hand from headrace's own messages."""

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
    """Features by name: lists of float, int or bytes, or a Feature as it is."""
    return Example(features=Features(feature={name: feature(values) for name, values in features.items()}))


def feature(values: Any) -> Feature:
    """The feature of the kind that the first value is of."""
    if isinstance(values, Feature):
        return values
    if isinstance(values[0], bytes):
        return Feature(bytes_list=BytesList(value=values))
    if isinstance(values[0], float):
        return Feature(float_list=FloatList(value=values))
    return Feature(int64_list=Int64List(value=values))


def examples(*every: Example, context: Example | None = None) -> Input:
    """Examples, with what they share."""
    if context is None:
        return Input(example_list={"examples": every})
    return Input(example_list_with_context={"examples": every, "context": context})


def classify_request(*every: Example, context: Example | None = None, **spec: Any) -> ClassificationRequest:
    """A Classify of the model that tests serve."""
    request = ClassificationRequest(input=examples(*every, context=context))
    name_model(request, **spec)
    return request


def regress_request(*every: Example, context: Example | None = None, **spec: Any) -> RegressionRequest:
    """A Regress of the model that tests serve."""
    request = RegressionRequest(input=examples(*every, context=context))
    name_model(request, **spec)
    return request


def task(method: str, **spec: Any) -> InferenceTask:
    """One inference of a MultiInference."""
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

"""How a call is stored in a PredictionLog: its field, and the models that it names."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from headrace_protos import (
    ClassificationRequest,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)

LOG_TYPES: Mapping[type[Message], str] = {
    PredictRequest: "predict_log",
    ClassificationRequest: "classify_log",
    RegressionRequest: "regress_log",
    MultiInferenceRequest: "multi_inference_log",
}
"""The field of PredictionLog (one of its oneof `log_type`) for each type of request. Other types cannot be logged."""


def asked_specs(request: Any) -> Sequence[ModelSpec]:
    """The ModelSpecs of a request that has a `log_type`: one, or one for each task."""
    if isinstance(request, MultiInferenceRequest):
        return [task.model_spec for task in request.tasks]
    return [request.model_spec]


def answering_spec(response: Any) -> ModelSpec:
    """The ModelSpec of a response; if there are several tasks, that of the first."""
    spec: ModelSpec = (response.results[0] if hasattr(response, "results") else response).model_spec
    return spec

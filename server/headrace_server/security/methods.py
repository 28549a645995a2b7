"""The action of each call, and the models that it concerns: for every gRPC method, and every call over HTTP.

A call that is in none of these tables is refused to everybody, and `tests/server/security/test_coverage.py` fails.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Action(StrEnum):
    """The action of a call; the names are those of the policy file.

    Attributes:
        PREDICT: Run a model.
        METADATA: Read a model's description, state and statistics.
        ADMIN: Change which models are served, shared memory and settings, or list all of them.
        HEALTH: Ask whether the server is up and ready.
        REFLECTION: Read the descriptions of the protocols.
        METRICS: Read the metrics.
        PAGE: Read what the server's page shows.
        PUBLIC: Read files that are the same on every server; this needs no credentials.
    """

    PREDICT = "predict"
    METADATA = "metadata"
    ADMIN = "admin"
    HEALTH = "health"
    REFLECTION = "reflection"
    METRICS = "metrics"
    PAGE = "page"
    PUBLIC = "public"


Models = tuple[str | None, ...]
"""The names of the models that a call concerns: empty if it concerns none; None means every model."""

NO_MODEL: Models = ()
EVERY_MODEL: Models = (None,)


@dataclass(frozen=True, slots=True)
class Need:
    """The right that a call needs.

    Attributes:
        action: The action of the call; None for calls that are refused to all callers.
        models: The models that the call concerns.
    """

    action: Action | None
    models: Models = NO_MODEL


@dataclass(frozen=True, slots=True)
class MethodNeed:
    """The right that the calls of a gRPC method need.

    Attributes:
        action: The action of the calls; None for calls that are refused to all callers.
        models: Returns the models that a request's message concerns.
    """

    action: Action | None
    models: Callable[[Any], Models] = lambda _: NO_MODEL

    def of(self, request: Any) -> Need:
        """The right that a call needs, given its message."""
        return Need(self.action, self.models(request))


SERVER_NAMES = (
    "",
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
    "inference.GRPCInferenceService",
)
"""Names by which grpc.health.v1 refers to the whole server; any other name is a model's.

TF Serving sets the two bare names; clients of other servers ask for the full ones.
"""


def _service(request: Any) -> Models:
    return NO_MODEL if request.service in SERVER_NAMES else (request.service,)


def _every(_: Any) -> Models:
    return EVERY_MODEL


def _spec(request: Any) -> Models:
    return (request.model_spec.name,)


def _tasks(request: Any) -> Models:
    return tuple(dict.fromkeys(task.model_spec.name for task in request.tasks)) or ("",)


def _named(request: Any) -> Models:
    return (request.name,)


def _named_or_every(request: Any) -> Models:
    return (request.name or None,)


def _model_name(request: Any) -> Models:
    return (request.model_name,)


def _model_name_or_every(request: Any) -> Models:
    return (request.model_name or None,)


def _under(service: str, methods: Mapping[str, MethodNeed]) -> dict[str, MethodNeed]:
    return {f"/{service}/{method}": need for method, need in methods.items()}


_EVERYTHING = MethodNeed(Action.ADMIN, _every)

NOBODY = MethodNeed(None)
"""The need of a method that is in no table: no caller has the right to call it."""

GRPC: Mapping[str, MethodNeed] = {
    **_under(
        "tensorflow.serving.PredictionService",
        {
            "Predict": MethodNeed(Action.PREDICT, _spec),
            "Classify": MethodNeed(Action.PREDICT, _spec),
            "Regress": MethodNeed(Action.PREDICT, _spec),
            "MultiInference": MethodNeed(Action.PREDICT, _tasks),
            "GetModelMetadata": MethodNeed(Action.METADATA, _spec),
        },
    ),
    **_under(
        "tensorflow.serving.ModelService",
        {"GetModelStatus": MethodNeed(Action.METADATA, _spec), "HandleReloadConfigRequest": _EVERYTHING},
    ),
    **_under(
        "inference.GRPCInferenceService",
        {
            "ServerLive": MethodNeed(Action.HEALTH),
            "ServerReady": MethodNeed(Action.HEALTH),
            "ServerMetadata": MethodNeed(Action.METADATA),
            "ModelReady": MethodNeed(Action.METADATA, _named),
            "ModelMetadata": MethodNeed(Action.METADATA, _named),
            "ModelConfig": MethodNeed(Action.METADATA, _named),
            "ModelStatistics": MethodNeed(Action.METADATA, _named_or_every),
            "ModelInfer": MethodNeed(Action.PREDICT, _model_name),
            "ModelStreamInfer": MethodNeed(Action.PREDICT, _model_name),
            "RepositoryIndex": MethodNeed(Action.METADATA, _every),
            "RepositoryModelLoad": MethodNeed(Action.ADMIN, _model_name),
            "RepositoryModelUnload": MethodNeed(Action.ADMIN, _model_name),
            "SystemSharedMemoryStatus": _EVERYTHING,
            "SystemSharedMemoryRegister": _EVERYTHING,
            "SystemSharedMemoryUnregister": _EVERYTHING,
            "CudaSharedMemoryStatus": _EVERYTHING,
            "CudaSharedMemoryRegister": _EVERYTHING,
            "CudaSharedMemoryUnregister": _EVERYTHING,
            "TraceSetting": MethodNeed(Action.ADMIN, _model_name_or_every),
            "LogSettings": _EVERYTHING,
        },
    ),
    **_under("grpc.health.v1.Health", dict.fromkeys(("Check", "Watch"), MethodNeed(Action.HEALTH, _service))),
    **_under("grpc.reflection.v1.ServerReflection", {"ServerReflectionInfo": MethodNeed(Action.REFLECTION)}),
    **_under("grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": MethodNeed(Action.REFLECTION)}),
    **_under("tensorflow.ProfilerService", dict.fromkeys(("Profile", "Terminate", "Monitor"), _EVERYTHING)),
}
"""The right that the calls of each method need, by the method's full path."""

V1: Mapping[str, Action] = {
    "predict": Action.PREDICT,
    "classify": Action.PREDICT,
    "regress": Action.PREDICT,
    "metadata": Action.METADATA,
    "status": Action.METADATA,
}
"""The calls of TensorFlow Serving's REST API by their verb; each names its model."""

V2: Mapping[str, Callable[[str], Need]] = {
    "server": lambda _: Need(Action.METADATA),
    "live": lambda _: Need(Action.HEALTH),
    "ready": lambda _: Need(Action.HEALTH),
    "models": lambda _: Need(Action.METADATA, EVERY_MODEL),
    "stats": lambda model: Need(Action.METADATA, (model or None,)),
    "metadata": lambda model: Need(Action.METADATA, (model,)),
    "model_ready": lambda model: Need(Action.METADATA, (model,)),
    "config": lambda model: Need(Action.METADATA, (model,)),
    "infer": lambda model: Need(Action.PREDICT, (model,)),
    "generate": lambda model: Need(Action.PREDICT, (model,)),
    "generate_stream": lambda model: Need(Action.PREDICT, (model,)),
    "index": lambda _: Need(Action.METADATA, EVERY_MODEL),
    "load": lambda model: Need(Action.ADMIN, (model,)),
    "unload": lambda model: Need(Action.ADMIN, (model,)),
    "memory_status": lambda _: Need(Action.ADMIN, EVERY_MODEL),
    "memory_register": lambda _: Need(Action.ADMIN, EVERY_MODEL),
    "memory_unregister": lambda _: Need(Action.ADMIN, EVERY_MODEL),
    "logging": lambda _: Need(Action.ADMIN, EVERY_MODEL),
    "trace": lambda model: Need(Action.ADMIN, (model or None,)),
}
"""The calls of the Open Inference Protocol over HTTP: by name, the right that each needs for the model in its path."""

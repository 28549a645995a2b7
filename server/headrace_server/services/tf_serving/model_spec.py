"""Reads the model and version from a ModelSpec, as in `ServableRequestFromModelSpec` of TF Serving's server_core.cc."""

from typing import Protocol

from headrace_protos import ModelSpec
from headrace_server.errors import invalid


class HasModelSpec(Protocol):
    """Any request that names a model."""

    @property
    def model_spec(self) -> ModelSpec:
        """The requested model and version."""

    def HasField(self, field_name: str) -> bool:  # noqa: N802 - protobuf's name
        """Whether a message field is set."""


def require_model_spec(request: HasModelSpec) -> ModelSpec:
    """The request's ModelSpec.

    Raises:
        ServingError: INVALID_ARGUMENT if it has none.
    """
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def asked_version(spec: ModelSpec) -> int | str | None:
    """The version that a ModelSpec requests, by number or by label; None means the latest.

    Raises:
        ServingError: INVALID_ARGUMENT if it names no model.
    """
    if not spec.name:
        raise invalid("ModelSpec has no name specified.")
    if spec.HasField("version_label"):
        return spec.version_label
    return spec.version.value if spec.HasField("version") else None

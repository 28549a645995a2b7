"""The public names of the client: Client, AsyncClient, and their arguments, results and errors."""

from headrace_client.aio import AsyncClient
from headrace_client.client import Client
from headrace_client.request import (
    Hedge,
    ModelMetadata,
    Retry,
    ServerError,
    Signature,
    TensorSpec,
    VersionStatus,
)

__all__ = [
    "AsyncClient",
    "Client",
    "Hedge",
    "ModelMetadata",
    "Retry",
    "ServerError",
    "Signature",
    "TensorSpec",
    "VersionStatus",
]

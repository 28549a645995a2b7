"""The protocol's messages about the server and its models, which gRPC and HTTP write in their own ways."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_protos.inference import model_config_pb2 as config
from headrace_server.config.model_config import Latest
from headrace_server.errors import ServingError, invalid
from headrace_server.models.servable import Servable
from headrace_server.services.open_inference.lookup import Lookup, version_number
from headrace_server.services.open_inference.metadata import PolicyOf, configuration, metadata
from headrace_server.services.open_inference.statistics import statistics
from headrace_server.services.servables import Repository

NAME = "headrace"
EXTENSIONS = (
    "classification",
    "sequence",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "logging",
)
"""Triton's extensions that work here with any installed packages."""

CUDA_EXTENSION = "cuda_shared_memory"
"""The extension that needs pycuda."""


@dataclass(frozen=True, slots=True)
class Models:
    """The server and its models.

    Attributes:
        repository: Finds servables, and knows every version.
        policy_of: Returns which versions of a model are served; None for a model that is not configured.
        is_ready: Whether every configured model can be called.
        extensions: The extensions that the server announces.
    """

    repository: Repository
    policy_of: PolicyOf
    is_ready: Callable[[], bool]
    extensions: Sequence[str] = EXTENSIONS

    @property
    def lookup(self) -> Lookup:
        """Finds servables."""
        return Lookup(self.repository)

    def server(self) -> messages.ServerMetadataResponse:
        """The server's name, its version and its extensions."""
        more = (CUDA_EXTENSION,) if find_spec("pycuda") is not None else ()
        return messages.ServerMetadataResponse(name=NAME, version=version(NAME), extensions=(*self.extensions, *more))

    def names(self) -> list[str]:
        """The models that can be called."""
        return sorted(name for name in self.repository.names() if self.lookup.ready_versions(name))

    async def metadata(self, name: str, asked: str, signature: str = "") -> messages.ModelMetadataResponse:
        """A model's metadata, which lists the requested version, or all that are ready.

        Raises:
            ServingError: There is no such version; the others as for `metadata.metadata`.
        """
        with await self.lookup.lease(name, asked) as servable:
            versions = [servable.version] if asked else self.lookup.ready_versions(name)
            return metadata(servable, versions, signature)

    async def config(self, name: str, asked: str, signature: str = "") -> config.ModelConfig:
        """A model's configuration.

        Raises:
            ServingError: As for `metadata`.
        """
        with await self.lookup.lease(name, asked) as servable:
            return configuration(servable, self.policy_of(name) or Latest(), signature)

    def statistics(self, name: str, asked: str) -> messages.ModelStatisticsResponse:
        """The statistics of one version, of all ready versions of a model, or of every model if the name is empty.

        Raises:
            ServingError: INVALID_ARGUMENT if no version is ready.
        """
        number = version_number(asked)
        response = messages.ModelStatisticsResponse()
        for each in [name] if name else self.names():
            for ready in self.lookup.ready_versions(each) if number is None else [number]:
                if (servable := self._held(each, ready)) is not None:
                    with servable:
                        response.model_stats.append(statistics(servable))
        if name and not response.model_stats:
            if number is None or not self.repository.statuses(name):
                raise invalid(f"requested model '{name}' is not available")
            raise invalid(f"requested model version is not available for model '{name}'")
        return response

    def _held(self, name: str, number: int) -> Servable | None:
        try:
            return self.repository.servable(name, number)
        except ServingError:  # the version has been unloaded in the meantime
            return None

"""The state that gRPC and HTTP share: the models, and everything that can be administered."""

from dataclasses import dataclass
from typing import Any

from headrace_server.errors import invalid
from headrace_server.services.open_inference.models import Models
from headrace_server.services.open_inference.regions import Regions
from headrace_server.services.open_inference.repository import ModelRepository
from headrace_server.services.open_inference.rights import Rights
from headrace_server.services.open_inference.settings import LogSettings, TraceSettings


@dataclass(frozen=True, slots=True)
class OpenInference:
    """The state that gRPC and HTTP share.

    Attributes:
        models: The server and its models.
        repository: Loads and unloads models.
        regions: The regions of system shared memory.
        logs: The log settings.
        traces: The trace settings.
        rights: The rights of callers.
    """

    models: Models
    repository: ModelRepository
    regions: Regions
    logs: LogSettings
    traces: TraceSettings
    rights: Rights

    def close(self) -> None:
        """Frees what callers have sent or registered: files and GPU memory."""
        self.repository.close()
        self.regions.cuda.unregister("")

    def trace_settings(self, model: str, changes: dict[str, list[str]]) -> Any:
        """Changes the trace settings of a model, or of all models, if a change is given; returns the settings.

        Raises:
            ServingError: The change is refused.
        """
        self.rights.require(Rights.WRITE if changes else Rights.READ, "trace settings")
        if model and not self.models.repository.statuses(model):
            raise invalid(f"Request for unknown model : {model}")
        if changes:
            self.traces.update(model, changes)
        return self.traces.read(model)

    def log_settings(self, changes: dict[str, Any]) -> Any:
        """Changes the log settings if a change is given; returns the settings.

        Raises:
            ServingError: The change is refused.
        """
        self.rights.require(Rights.WRITE if changes else Rights.READ, "log settings")
        self.logs.update(changes)
        return self.logs.read()

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Registers a region of system shared memory.

        Raises:
            ServingError: The region is refused.
        """
        self.rights.require(Rights.WRITE, "registering shared memory")
        self.regions.register(name, key, offset, byte_size)

    def register_cuda(self, name: str, handle: bytes, device_id: int, byte_size: int) -> None:
        """Registers a region of GPU memory.

        Raises:
            ServingError: The region is refused.
        """
        self.rights.require(Rights.WRITE, "registering shared memory")
        self.regions.cuda.register(name, handle, device_id, byte_size)

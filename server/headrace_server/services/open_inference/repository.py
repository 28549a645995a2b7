"""The model repository extension: an index of models, and loading and unloading them by name.

The codes and texts are those of Triton's model_repository_manager.cc and grpc_server.cc.
"""

import asyncio
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from headrace_protos import Code
from headrace_server.config.model_config import Latest, ModelConfig
from headrace_server.errors import AT_REST, ServingError, invalid, status_of, unimplemented
from headrace_server.models.overlay import Overlay
from headrace_server.models.version_policy import State
from headrace_server.models.versions import VersionStatus
from headrace_server.services.open_inference.load_config import LoadConfig, read_load_config
from headrace_server.services.open_inference.rights import Rights
from headrace_server.services.servables import Repository

log = logging.getLogger(__name__)

OverrideBatching = Callable[[str, Mapping[str, Any]], None]

FILE = "file:"

_STATES = {
    State.START: "LOADING",
    State.LOADING: "LOADING",
    State.AVAILABLE: "READY",
    State.UNLOADING: "UNLOADING",
    State.END: "UNAVAILABLE",
    State.AT_REST: "READY",
}


class Configured(Protocol):
    """The part of the configuration that is needed here; see the docstrings of `models.configuration.Configuration`."""

    models: Overlay

    def serve(self, model: ModelConfig, *, anew: bool = False) -> VersionStatus | None:
        """Serves one model as given, and returns its settled version."""

    def withdraw(self, name: str) -> None:
        """Stops serving a model."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of one model.

    Attributes:
        name: The model's name.
        version: The version's number.
        state: READY, UNAVAILABLE, LOADING or UNLOADING.
        reason: Why the version is unavailable, or a text which says that the next call loads it; otherwise empty.
    """

    name: str
    version: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """The content of a call to load a model.

    Attributes:
        config: A ModelConfig as JSON; None if there is none.
        files: The model's files, by their paths below its folder, such as `1/model.onnx` for version 1.
    """

    config: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


class ModelRepository:
    """The models as callers may see and change them.

    Args:
        models: Knows every version.
        configured: Changes which of the models are served.
        override_batching: Sets other batching parameters for a model, from its next load on.
        rights: The rights of callers.
    """

    def __init__(
        self, models: Repository, configured: Configured, override_batching: OverrideBatching, rights: Rights
    ) -> None:
        self._models = models
        self._configured = configured
        self._override_batching = override_batching
        self._rights = rights
        self._folders: dict[str, Path] = {}
        self._changing = asyncio.Lock()

    def close(self) -> None:
        """Removes the files that callers have sent."""
        for folder in self._folders.values():
            shutil.rmtree(folder, ignore_errors=True)

    def index(self, *, ready: bool) -> list[IndexEntry]:
        """Every version that ever existed, or only those that can be called."""
        self._rights.require(Rights.READ, "the repository's index")
        entries = [
            IndexEntry(name, str(status.version), _STATES[status.state], _reason(status))
            for name in sorted(self._models.names())
            for status in reversed(self._models.statuses(name))
        ]
        return [entry for entry in entries if entry.state == "READY" or not ready]

    async def load(self, name: str, request: LoadRequest) -> None:
        """Loads a model, and returns when it can be called.

        Raises:
            ServingError: UNAVAILABLE if callers are not allowed to load models; UNIMPLEMENTED if they are not allowed
                to load them with files; INTERNAL if there is no such model; INVALID_ARGUMENT if the load fails.
        """
        self._require_write()
        if request.files:
            self._rights.require(Rights.FILES, "loading a model from files that come with the call")
        async with self._changing:
            await asyncio.to_thread(self._load, name, request)

    async def unload(self, name: str) -> None:
        """Unloads a model, and returns when no new call can find it; an unknown model counts as unloaded.

        Raises:
            ServingError: UNAVAILABLE if callers are not allowed to unload models.
        """
        self._require_write()
        async with self._changing:
            if self._models.statuses(name):
                await asyncio.to_thread(self._configured.withdraw, name)
            self._override_batching(name, {})
            self._forget_files(name)

    def _require_write(self) -> None:
        if self._rights < Rights.WRITE:
            text = "explicit model load / unload is not allowed if polling is enabled"
            raise ServingError(Code.UNAVAILABLE, text)

    def _load(self, name: str, request: LoadRequest) -> None:
        config = _read_config(name, request)
        model = self._model(name, request)
        if config.policy is not None:
            model = replace(model, policy=config.policy)
        anew = request.config is not None
        if anew:
            self._override_batching(name, config.batching)
        status = self._configured.serve(model, anew=anew)
        if status is None:
            raise _not_polled(name)
        if status.state is State.END or status.error is not None:
            raise invalid(
                f"load failed for model '{name}': version {status.version} is at UNAVAILABLE state: {_reason(status)};"
            )

    def _model(self, name: str, request: LoadRequest) -> ModelConfig:
        """The model's location, and which of its versions are to be served."""
        if request.files:
            return ModelConfig(name, self._write_files(name, request.files), Latest())
        model = self._configured.models.served(name) or self._configured.models.listed(name)
        if model is None:
            raise _not_polled(name)
        return model

    def _write_files(self, name: str, files: Mapping[str, bytes]) -> Path:
        paths = {_checked(name, path): data for path, data in files.items()}
        folder = Path(tempfile.mkdtemp(prefix="headrace-model-"))
        self._forget_files(name)
        self._folders[name] = folder
        for path, data in paths.items():
            target = folder / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise invalid(f"load parameter '{FILE}{path}' of model '{name}' is in, or contains, another") from error
        return folder

    def _forget_files(self, name: str) -> None:
        folder = self._folders.pop(name, None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def check_repository(name: str) -> None:
    """Refuses a request that names a repository, since the only one there is has no name.

    Raises:
        ServingError: UNIMPLEMENTED.
    """
    if name:
        raise unimplemented("'repository_name' specification is not supported")


def _read_config(name: str, request: LoadRequest) -> LoadConfig:
    if request.config is None:
        if request.files:
            raise _not_polled(name)
        return LoadConfig()
    try:
        return read_load_config(request.config)
    except (ValueError, TypeError, AttributeError) as error:
        log.warning("the configuration to load model %s with cannot be read: %s", name, error)
        raise _not_polled(name) from error


def _checked(name: str, path: str) -> PurePosixPath:
    """A file's path below the model's folder, which it must not leave. Its first part is the version."""
    parts = PurePosixPath(path).parts
    if len(parts) < 2 or not parts[0].isdecimal() or ".." in parts or "\0" in path:
        raise invalid(
            f"load parameter '{FILE}{path}' of model '{name}' must name a file in a version's folder, such as "
            f"{FILE}1/model.onnx"
        )
    return PurePosixPath(*parts)


def _not_polled(name: str) -> ServingError:
    return ServingError(Code.INTERNAL, f"failed to load '{name}', failed to poll from model repository")


def _reason(status: VersionStatus) -> str:
    if status.state is State.AT_REST and status.error is None:
        return AT_REST
    if status.state not in (State.END, State.AT_REST):
        return ""
    return "unloaded" if status.error is None else status_of(status.error)[1]

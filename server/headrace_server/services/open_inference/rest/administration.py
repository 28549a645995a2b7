"""The administrative calls over HTTP: the repository, shared memory, log and trace settings."""

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from headrace_server.errors import invalid
from headrace_server.services.http import HttpRequest
from headrace_server.services.open_inference.repository import FILE, LoadRequest, check_repository
from headrace_server.services.open_inference.rest.json_values import member, read_document, text, unsigned
from headrace_server.services.open_inference.rest.routes import Route
from headrace_server.services.open_inference.rights import Rights
from headrace_server.services.open_inference.server import OpenInference

Call = Callable[[Route, HttpRequest], Awaitable[Any]]


class Administration:
    """Answers the administrative calls; an answer of None means an empty body.

    Args:
        server: The models, the regions and the settings that gRPC and HTTP share.
    """

    def __init__(self, server: OpenInference) -> None:
        self._server = server

    @property
    def calls(self) -> Mapping[str, Call]:
        """Each call by its name in `routes`."""
        return {
            "index": self._index,
            "load": self._load,
            "unload": self._unload,
            "memory_status": self._memory_status,
            "memory_register": self._memory_register,
            "memory_unregister": self._memory_unregister,
            "logging": self._logging,
            "trace": self._trace,
        }

    async def _index(self, asked: Route, request: HttpRequest) -> Any:
        del asked
        ready = _document(request).get("ready", False)
        entries = self._server.repository.index(ready=ready is True)
        fields = ("name", "version", "state", "reason")
        return [{name: value for name in fields if (value := getattr(entry, name))} for entry in entries]

    async def _load(self, asked: Route, request: HttpRequest) -> Any:
        check_repository(asked.repository)
        await self._server.repository.load(asked.model, _load_request(_document(request)))

    async def _unload(self, asked: Route, request: HttpRequest) -> Any:
        del request
        check_repository(asked.repository)
        await self._server.repository.unload(asked.model)

    async def _memory_status(self, asked: Route, request: HttpRequest) -> Any:
        del request
        self._server.rights.require(Rights.READ, "the status of shared memory")
        if asked.cuda:
            cuda = self._server.regions.cuda.status(asked.region)
            return [{name: getattr(each, name) for name in ("name", "device_id", "byte_size")} for each in cuda]
        fields = ("name", "key", "offset", "byte_size")
        regions = self._server.regions.status(asked.region)
        return [{name: getattr(region, name) for name in fields} for region in regions]

    async def _memory_register(self, asked: Route, request: HttpRequest) -> Any:
        kind = "cuda" if asked.cuda else "system"
        if not asked.region:
            raise invalid(f"'region name' is necessary to register {kind} shared memory region")
        document = _document(request)
        for name in ("raw_handle", "device_id", "byte_size") if asked.cuda else ("key", "byte_size"):
            if name not in document:
                raise invalid(f"Shared memory register request has no '{name}' field")
        if asked.cuda:
            handle = _decoded("raw_handle", member(document["raw_handle"], "b64"))
            device_id, byte_size = unsigned(document, "device_id"), unsigned(document, "byte_size")
            self._server.register_cuda(asked.region, handle, device_id, byte_size)
            return
        offset = unsigned(document, "offset") if "offset" in document else 0
        self._server.register(asked.region, text(document, "key"), offset, unsigned(document, "byte_size"))

    async def _memory_unregister(self, asked: Route, request: HttpRequest) -> Any:
        del request
        regions = self._server.regions
        (regions.cuda if asked.cuda else regions).unregister(asked.region)

    async def _logging(self, asked: Route, request: HttpRequest) -> Any:
        del asked
        changes = read_document(_data(request)) if request.method == "POST" else {}
        return self._server.log_settings(dict(changes))

    async def _trace(self, asked: Route, request: HttpRequest) -> Any:
        document = read_document(_data(request)) if request.method == "POST" else {}
        changes = {name: _trace_values(name, value) for name, value in document.items()}
        settings = self._server.trace_settings(asked.model, changes)
        return {name: list(value) if name == "trace_level" else value[0] for name, value in settings.items()}


def _data(request: HttpRequest) -> bytes:
    data = request.body.data
    if data is None:
        with open(request.body.detach(), "rb") as file:
            file.seek(0)
            data = file.read()
    return data


def _document(request: HttpRequest) -> Mapping[str, Any]:
    """The object in a body; an empty one for an empty body."""
    data = _data(request)
    return read_document(data) if data else {}


def _load_request(document: Mapping[str, Any]) -> LoadRequest:
    config, files = None, {}
    for name, value in document.get("parameters", {}).items():
        if name == "config":
            if not isinstance(value, str):
                raise invalid("invalid value type for load parameter 'config', expected string_param.")
            config = value
        elif name.startswith(FILE):
            files[name.removeprefix(FILE)] = _decoded(name, value)
        else:
            raise invalid(f"unrecognized load parameter '{name}'.")
    return LoadRequest(config, files)


def _decoded(name: str, value: Any) -> bytes:
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise invalid(f"'{name}' must be a string in base64: {error}") from error


def _trace_values(name: str, value: Any) -> list[str]:
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise invalid(f"Unable to parse '{name}': attempt to access JSON non-string as string")
    return values

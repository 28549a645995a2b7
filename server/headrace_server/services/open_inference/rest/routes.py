"""Determines the protocol's call from a REST request's method and path. Source: Triton's http_server.cc."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

_MODEL = r"/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
_REPOSITORY = r"/repository(?:/(?P<repository>[^/]+))?"
_REGIONS = r"/(?P<kind>system|cuda)sharedmemory(?:/region/(?P<region>[^/]+))?"

# The order matters: a model called `stats` has no metadata, as in Triton.
_ROUTES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("server", ("GET",), ""),
    ("live", ("GET",), "/health/live"),
    ("ready", ("GET",), "/health/ready"),
    ("models", ("GET",), "/models"),
    ("stats", ("GET",), "/models/stats"),
    ("metadata", ("GET",), _MODEL),
    ("model_ready", ("GET",), _MODEL + "/ready"),
    ("config", ("GET",), _MODEL + "/config"),
    ("stats", ("GET",), _MODEL + "/stats"),
    ("infer", ("POST",), _MODEL + "/infer"),
    ("generate", ("POST",), _MODEL + "/generate"),
    ("generate_stream", ("POST",), _MODEL + "/generate_stream"),
    ("index", ("POST",), _REPOSITORY + "/index"),
    ("load", ("POST",), _REPOSITORY + r"/models/(?P<model>[^/]+)/load"),
    ("unload", ("POST",), _REPOSITORY + r"/models/(?P<model>[^/]+)/unload"),
    ("memory_status", ("GET",), _REGIONS + "/status"),
    ("memory_register", ("POST",), _REGIONS + "/register"),
    ("memory_unregister", ("POST",), _REGIONS + "/unregister"),
    ("logging", ("GET", "POST"), "/logging"),
    ("trace", ("GET", "POST"), "/trace/setting"),
    ("trace", ("GET", "POST"), r"/models/(?P<model>[^/]+)/trace/setting"),
)
_PATTERNS = tuple((call, methods, re.compile("/v2" + pattern)) for call, methods, pattern in _ROUTES)


@dataclass(frozen=True, slots=True)
class Route:
    """The call that a method and a path select.

    Attributes:
        call: The call's name, one of those above.
        model: The model that the path names; empty if it names none.
        version: The version, as in the path; empty if it names none.
        repository: The repository, as in the path; empty if it names none.
        region: The shared memory region that the path names; empty if it names none.
        cuda: Whether the region is of GPU memory.
    """

    call: str
    model: str = ""
    version: str = ""
    repository: str = ""
    region: str = ""
    cuda: bool = False


def route(method: str, path: str) -> Route | int:
    """The call for a path and a method, or the status that refuses them: 404 or 405."""
    status = 404
    for call, methods, pattern in _PATTERNS:
        found = pattern.fullmatch(path)
        if found is None:
            continue
        if method in methods:
            return _route(call, found.groupdict())
        status = 405
    return status


def _route(call: str, parts: dict[str, str | None]) -> Route:
    text = {name: unquote(part or "", errors="replace") for name, part in parts.items()}
    return Route(
        call,
        text.get("model", ""),
        text.get("version", ""),
        text.get("repository", ""),
        text.get("region", ""),
        text.get("kind") == "cuda",
    )

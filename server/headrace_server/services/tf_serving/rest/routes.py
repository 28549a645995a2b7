"""Determines the call of the REST API from a request's method and path."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from headrace_protos import ModelSpec
from headrace_server.errors import invalid

UNDER_V1 = re.compile(r"/v1/.*", re.IGNORECASE)

# As in TF Serving's http_rest_api_util.cc. The patterns ignore case, but what they match keeps its case.
_MODEL = r"/v1/models{0}(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL.format("/(?P<name>[^/:]+)") + ":(?P<verb>classify|regress|predict)", re.IGNORECASE)
_LOOK = re.compile(_MODEL.format("(?:/(?P<name>[^/:]+))?") + "(?:/(?P<verb>metadata))?", re.IGNORECASE)
_PATTERNS = {"POST": _CALL, "GET": _LOOK}
_VERBS = ("classify", "regress", "predict", "metadata")
_INT64_MAX = 2**63 - 1
_INT64_DIGITS = len(str(_INT64_MAX))  # a caller may send thousands of digits, which Python refuses to convert


@dataclass(frozen=True, slots=True)
class Route:
    """The call that a method and a path select.

    Attributes:
        verb: classify, regress, predict, metadata, or status.
        spec: The model, and its version or label, that the path names.
    """

    verb: str
    spec: ModelSpec

    @property
    def counted_verb(self) -> str:
        """The verb for metrics: empty unless the call runs the model."""
        return self.verb if self.verb in ("classify", "regress", "predict") else ""


def route(method: str, target: str) -> Route:
    """The call for a path, with its query, and a method.

    Raises:
        ServingError: INVALID_ARGUMENT; as in TF Serving, with an empty text if the version is not an int64.
    """
    pattern = _PATTERNS.get(method)
    found = pattern.fullmatch(target) if pattern else None
    verb = (found["verb"] or "status") if found else ""
    if found is None or (method == "POST" and verb not in _VERBS):
        raise invalid(f"Malformed request: {method} {target}")
    spec = _spec(found)
    if not spec.name:
        raise invalid("Missing model name in request.")
    return Route(verb if verb in _VERBS else "status", spec)


def _spec(found: re.Match[str]) -> ModelSpec:
    spec = ModelSpec(name=_decoded(found["name"] or ""))
    if found["version"]:
        digits = found["version"].lstrip("0")
        if len(digits) > _INT64_DIGITS or int(digits or "0") > _INT64_MAX:
            raise invalid("")
        spec.version.value = int(digits or "0")
    elif found["label"]:
        spec.version_label = _decoded(found["label"])
    return spec


def _decoded(text: str) -> str:
    return unquote(text, errors="replace")

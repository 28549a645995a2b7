"""The ModelConfig, as JSON, that a call to load a model may contain, as far as it can be changed for one model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace_server.config.model_config import All, Latest, Specific, VersionPolicy
from headrace_server.errors import invalid

_CHANGED = ("max_batch_size", "dynamic_batching", "version_policy")
# Fields that change no answer, or only repeat what the server reports: callers may send them back unchanged.
_RESTATED = (
    "backend",
    "default_model_filename",
    "input",
    "instance_group",
    "name",
    "optimization",
    "output",
    "platform",
    "runtime",
)


@dataclass(frozen=True, slots=True)
class LoadConfig:
    """The changes that the parameter `config` of a load makes.

    Attributes:
        batching: Fields of `headrace_batching.Options`; empty for the operator's own.
        policy: Which versions are served; None means as before.
    """

    batching: Mapping[str, Any] = field(default_factory=dict)
    policy: VersionPolicy | None = None


def read_load_config(text: str) -> LoadConfig:
    """Reads the parameter `config` of a load.

    Raises:
        ValueError: The text is not a JSON object, or a value has the wrong type.
        ServingError: INVALID_ARGUMENT if it would change something that cannot be changed.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError("a ModelConfig is a JSON object")
    for name, value in document.items():
        if name not in (*_CHANGED, *_RESTATED) and value:
            raise invalid(f"load parameter 'config' cannot change '{name}' here")
    policy = document.get("version_policy")
    return LoadConfig(_batching(document), None if policy is None else _policy(policy))


def _batching(document: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if document.get("max_batch_size"):
        values["max_batch_size"] = int(document["max_batch_size"])
    dynamic = document.get("dynamic_batching") or {}
    if "max_queue_delay_microseconds" in dynamic:
        values["batch_timeout_micros"] = int(dynamic["max_queue_delay_microseconds"])
    sizes = sorted(map(int, dynamic.get("preferred_batch_size", ())))
    if sizes:
        most = values.setdefault("max_batch_size", sizes[-1])
        values["allowed_batch_sizes"] = tuple(sorted({*(size for size in sizes if size < most), most}))
    elif "max_batch_size" in values:
        values["allowed_batch_sizes"] = ()
    waiting = int(dynamic.get("default_queue_policy", {}).get("max_queue_size", 0))
    if waiting and "max_batch_size" in values:
        values["max_enqueued_batches"] = max(1, -(-waiting // values["max_batch_size"]))
    return values


def _policy(document: Mapping[str, Any]) -> VersionPolicy:
    if "all" in document:
        return All()
    if "specific" in document:
        return Specific(tuple(map(int, document["specific"].get("versions", ()))))
    return Latest(max(1, int(document.get("latest", {}).get("num_versions", 1))))

"""The flags that both commands share: which there are, what they make of a run, and which of them change nothing."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, fields
from typing import Any

from headrace_server.config.run import Config

log = logging.getLogger(__name__)


def _flags(options: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    for field in fields(options):
        if "help" in field.metadata:
            yield prefix + field.name, field
        elif "prefix" in field.metadata:
            yield from _flags(field.default_factory, field.metadata["prefix"])


FLAGS: Mapping[str, Field[Any]] = dict(_flags(Config))
"""Every flag, by name, in the order in which it is shown. One whose default is a tuple is written with commas."""


def config_of(values: Mapping[str, Any]) -> Config:
    """What a run is told, from the values of flags, by name; a flag that is not among them keeps its default."""
    read = {name: _items(value) if isinstance(FLAGS[name].default, tuple) else value for name, value in values.items()}
    return Config(**_own(Config, read))


def _own(options: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    own = {field.name: values[prefix + field.name] for field in fields(options) if prefix + field.name in values}
    for field in fields(options):
        if "prefix" in field.metadata:
            kind: Any = field.default_factory
            own[field.name] = kind(**_own(kind, values, field.metadata["prefix"]))
    return own


def _items(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


def warn_of_ignored(given: Iterable[str]) -> None:
    """Says, of each flag given that changes nothing, so and why.

    Args:
        given: Names of flags.
    """
    for name in given:
        reason = FLAGS[name].metadata["ignored"]
        if reason:
            log.warning("--%s is ignored: %s", name, reason)

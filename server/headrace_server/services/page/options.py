"""The options in effect, as the live page lists them."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from headrace_batching.option import default_of
from headrace_server.config.flag import name_of_flag
from headrace_server.config.run import Config
from headrace_server.stores.base import without_secrets

_SECRET = re.compile("token|secret|password|api_key|_command$")
"""Parts of the names of flags whose values are not shown."""

HIDDEN = "(not shown)"


def options_in_force(config: Config) -> Iterator[dict[str, Any]]:
    """Each flag that has an effect: its name, its value, its default and its help text."""
    groups = ((getattr(config, own.name), own.metadata["prefix"]) for own in fields(config) if "prefix" in own.metadata)
    for holder, prefix in ((config, ""), *groups):
        for own in fields(holder):
            if "flag" in own.metadata and not own.metadata["ignored"]:
                name, value = name_of_flag(own, prefix), _written(getattr(holder, own.name))
                yield {
                    "name": name,
                    "value": HIDDEN if value and _SECRET.search(name) else value,
                    "default": _written(default_of(own)),
                    "help": own.metadata["help"],
                }


def _written(value: Any) -> bool | int | float | str:
    """A value as it is written on a command line."""
    if isinstance(value, tuple | list):
        return without_secrets(",".join(map(str, value)))
    return value if isinstance(value, bool | int | float) else without_secrets(str(value))

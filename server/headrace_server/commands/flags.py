"""The flags that the two server commands share: their names, how they become a `Config`, and which have no effect."""

import logging
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, fields
from typing import Any

from headrace_batching.option import Rule, default_of, refusal
from headrace_server.config.flag import flags_of, name_of_flag
from headrace_server.config.run import Config

log = logging.getLogger(__name__)

FLAGS: Mapping[str, Field[Any]] = flags_of(Config)
"""Every flag, by name, in the order in which it is shown. A flag whose default is a tuple is written with commas."""

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def config_of(values: Mapping[str, Any], **others: Any) -> Config:
    """The `Config` for the values of flags, by name; a flag that is not among them keeps its default.

    Args:
        values: The values of flags.
        others: The values of fields that are not flags.
    """
    return Config(**_own(Config, values), **others)


def _own(options: Any, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    own = {}
    for each in fields(options):
        if "prefix" in each.metadata:
            kind: Any = each.default_factory
            own[each.name] = kind(**_own(kind, values, each.metadata["prefix"]))
        elif (name := name_of_flag(each, prefix)) in values:
            value, rule = values[name], each.metadata["rule"]
            own[each.name] = _items(rule, value) if rule.kind is tuple and isinstance(value, str) else value
    return own


def _items(rule: Rule, text: str) -> tuple[Any, ...]:
    """The items of a comma-separated list; an item that cannot be converted stays text."""
    items = [item for item in text.split(",") if item]
    return tuple(map(int, items)) if rule.item is int and all(map(str.isdecimal, items)) else tuple(items)


def argument(name: str, own: Field[Any]) -> dict[str, Any]:
    """The arguments with which argparse declares a flag."""
    rule, ignored = own.metadata["rule"], own.metadata["ignored"]
    said = own.metadata["help"]
    note = "ignored" if ignored else f"default: {_shown(own.default) or ('empty' if 'empty' in said else 'none')}"
    kind: dict[str, Any] = {"type": _reader(name, rule), "metavar": rule.kind.__name__.upper()}
    if rule.kind is bool:
        kind |= {"nargs": "?", "const": True, "metavar": "true|false"}
    if rule.kind is tuple:
        kind |= {"metavar": "LIST"}
    if rule.choices and rule.kind is str:
        kind |= {"metavar": "|".join(map(str, rule.choices))}
    help_text = said if "(default: " in said and not ignored else f"{said} ({note})"
    return {"help": help_text.replace("%", "%%"), **kind}


def _shown(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default if default is not None else "")


def _reader(name: str, rule: Rule) -> Callable[[str], Any]:
    """Returns a function from the text of a flag to its value."""

    def read(text: str) -> Any:
        value = _items(rule, text) if rule.kind is tuple else _value(rule.kind, text)
        if not rule.allows(value):
            raise ArgumentTypeError(refusal(f"--{name}", rule, text if rule.kind is tuple else value))
        return value

    return read


def _value(kind: type, text: str) -> Any:
    """The value that a text represents, or the text itself if it is not valid."""
    if kind is bool:
        return _BOOLEANS.get(text.lower(), text)
    try:
        return kind(text) if kind in (int, float) else text
    except ValueError:
        return text


def value_of(name: str, values: Mapping[str, Any]) -> Any:
    """The value of one flag that is needed before there is a configuration.

    Args:
        name: The flag's name.
        values: The values of the flags that were given.
    """
    return values.get(name, default_of(FLAGS[name]))


def warn_of_ignored(given: Iterable[str]) -> None:
    """Logs each given flag that has no effect, and why.

    Args:
        given: The names of flags.
    """
    for name in given:
        reason = FLAGS[name].metadata["ignored"]
        if reason:
            log.warning("--%s is ignored: %s", name, reason)

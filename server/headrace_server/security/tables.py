"""TOML files of tables whose keys are declared as options: the policy, and the roots of models."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from headrace_batching.option import options_of, refusal
from headrace_server.errors import invalid, unreadable

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """Reads the content of a TOML file.

    Raises:
        ServingError: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise unreadable(path, error) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise invalid(f"{path} is not TOML: {error}") from error


def are_tables(value: Any) -> bool:
    """Whether a value is a list of tables, as `[[name]]` creates."""
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def read_table(kind: type[T], where: str, table: Mapping[str, Any]) -> T:
    """Reads the options in a table.

    Args:
        kind: The dataclass that declares the options.
        where: The prefix of error messages.
        table: The table's values, by key.

    Raises:
        ServingError: INVALID_ARGUMENT if a key is unknown, or has an invalid value.
    """
    options = options_of(kind)
    for name in table:
        if name not in options:
            raise invalid(f"{where}unknown key {name!r}; the allowed keys are {', '.join(options)}")
    for name, value in table.items():
        rule = options[name].metadata["rule"]
        if not rule.allows(value):
            raise invalid(where + refusal(name, rule, value))
    return kind(**{name: tuple(each) if isinstance(each, list) else each for name, each in table.items()})

"""Reads the tables of a recipe: each key is checked once, and the error for an unknown one suggests another."""

import contextlib
import math
import reprlib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headrace_toolkit import user_code
from headrace_toolkit.errors import ToolkitError


class Table:
    """One table of a recipe. Each method removes a key and checks it; `done` refuses the remaining ones.

    Args:
        where: Its name in messages, such as `recipe.toml: limits`.
        values: The table as read from TOML.
        folder: The folder that file names in it are relative to.
    """

    def __init__(self, where: str, values: Any, folder: Path) -> None:
        if not isinstance(values, Mapping):
            raise ToolkitError(f"{where} must be a table; was {_shown(values)}")
        self.where = where
        self._values = dict(values)
        self._folder = folder
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def string(self, key: str, default: str = "") -> str:
        """A string."""
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "must be a string", value)
        if "\0" in value:  # no file, array or tensor has such a name
            raise self.wrong(key, "must be a string without null characters", value)
        return str(value)

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """A string that must be one of the choices."""
        value = self._take(key, default)
        if value in choices:
            return str(value)
        raise self.wrong(key, f"must be one of {', '.join(choices)}", value)

    def boolean(self, key: str, default: bool) -> bool:
        """A Boolean: true or false."""
        value = self._take(key, default)
        if isinstance(value, bool):
            return value
        raise self.wrong(key, "must be true or false", value)

    def whole(self, key: str, default: int, least: int, most: int | None = None) -> int:
        """A whole number."""
        value = self._take(key, default)
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if fits and (most is None or value <= most):
            return int(value)
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise self.wrong(key, f"must be a whole number {span}", value)

    def number(self, key: str, default: float, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number."""
        value = self._take(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):  # a whole number beyond the largest float
                if math.isfinite(value) and least <= value <= most:
                    return float(value)
        span = f"of at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
        raise self.wrong(key, f"must be a finite number {span}" if least > -math.inf else "must be finite", value)

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if the key is missing."""
        value = self._take(key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self.wrong(key, "must be a list of strings", value)

    def names(self, key: str) -> dict[str, str]:
        """A table of strings; empty if the key is missing."""
        value = self._take(key, {})
        if isinstance(value, dict) and all(isinstance(item, str) for item in value.values()):
            return value
        raise self.wrong(key, "must be a table of strings", value)

    def file(self, key: str) -> str:
        """A file or `file.py:function`, relative to the recipe's folder; empty if the key is missing."""
        return self.resolved(self.string(key))

    def number_or_file(self, key: str, default: int, least: int) -> int | str:
        """A whole number, or a file."""
        return self.file(key) if isinstance(self._values.get(key), str) else self.whole(key, default, least)

    def table(self, key: str) -> "Table | None":
        """A nested table; None if the key is missing."""
        value = self._take(key, None)
        return None if value is None else Table(self.place(key), value, self._folder)

    def inner(self, key: str) -> "Table":
        """A nested table; an empty one if the key is missing."""
        return Table(self.place(key), self._take(key, {}), self._folder)

    def tables(self, key: str) -> list["Table"]:
        """A nested array of tables."""
        value = self._take(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, f"must be written as [[{key}]] tables", value)
        return [Table(f"{self.place(key)} {number}", item, self._folder) for number, item in enumerate(value, start=1)]

    def resolved(self, name: str) -> str:
        """A file name or `file.py:function`, joined to the recipe's folder unless it is absolute or empty."""
        if not name:
            return ""
        if user_code.names_function(name):
            file, _, function = name.rpartition(":")
            return f"{self._folder / file}:{function}"
        return str(self._folder / name)

    def done(self) -> None:
        """Refuses keys that were not read.

        Raises:
            ToolkitError: A key was not read; the text suggests the one that was probably meant.
        """
        for key in self._values:
            if key not in self._asked:
                close = get_close_matches(key, self._asked, n=1)
                meant = f"did you mean {close[0]}?" if close else f"the keys are {', '.join(self._asked)}"
                name = _shown(key).strip("'")
                place = self.where if self.where.endswith(": ") or not self.where else f"{self.where}: "
                raise ToolkitError(f"{place}unknown key {name}; {meant}")

    def _take(self, key: str, default: Any) -> Any:
        self._asked.append(key)
        return self._values.get(key, default)

    def wrong(self, key: str, demand: str, value: Any) -> ToolkitError:
        """The error of a value, as in `limits.max_drop must be a finite number of at least 0; was -1`."""
        return ToolkitError(f"{self.place(key)} {demand}; was {_shown(value)}")

    def place(self, key: str) -> str:
        """The name of a key in messages."""
        return f"{self.where}{key}" if self.where.endswith(": ") or not self.where else f"{self.where}.{key}"


def _shown(value: Any) -> str:
    """A value for a message: a long or deeply nested one in excerpts."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = 80
    try:
        return shortened.repr(value)
    except ValueError:  # more digits than Python converts to text
        return "a number of thousands of digits"

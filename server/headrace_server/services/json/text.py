"""Writes JSON values as RapidJSON's pretty writer does: strings, indents, and the excerpts in error texts."""

from math import isfinite
from typing import Any

INDENT = " " * 4
MAX_SHOWN = 256
"""The number of characters after which an excerpt in an error text ends, with the token that exceeds it."""

_ESCAPES = {code: f"\\u{code:04X}" for code in range(0x20)} | str.maketrans(
    {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
)
_SHORT = 1000
"""The number of characters up to which `translate` is used: an error text may hold megabytes of a request."""

_PLAIN = bytes(code for code in range(256) if code not in _ESCAPES)
_BACKSLASH_FIRST = ord("\\").__ne__  # a sort key: the backslash comes first, since the other escapes begin with one

_TYPES = {type(None): "Null", dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}


def quote(text: str) -> str:
    """A JSON string in which only the necessary characters are escaped."""
    return f'"{text.translate(_ESCAPES) if len(text) <= _SHORT else _escaped(text)}"'


def _escaped(text: str) -> str:
    """Does the same as `translate`, which takes 0.1 us per character and lets no other thread run before its end."""
    present = set(text.encode(errors="surrogatepass").translate(None, _PLAIN))
    for code in sorted(present, key=_BACKSLASH_FIRST):
        text = text.replace(chr(code), _ESCAPES[code])
    return text


def newline(level: int) -> str:
    """A line break and the indentation at this depth of objects and arrays."""
    return "\n" + INDENT * level


def type_name(value: Any) -> str:
    """RapidJSON's name of a value's type: Null, False, True, Object, Array, String or Number."""
    return str(value) if isinstance(value, bool) else _TYPES[type(value)]


def show(value: Any) -> str:
    """A value as an error text shows it: arrays on one line, cut after MAX_SHOWN characters."""
    excerpt = _Excerpt()
    excerpt.write(value, 0)
    return "".join(excerpt.parts)


class _Excerpt:
    """Text that stops growing at a limit."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._size = 0

    def write(self, value: Any, level: int) -> bool:
        """Adds a value at a nesting level; returns whether more may follow."""
        if isinstance(value, dict):
            return self._object(value, level)
        if isinstance(value, list):
            return self._array(value, level)
        text = _scalar(value)
        return text is not None and self._add("", text)

    def _object(self, value: dict[str, Any], level: int) -> bool:
        opened = self._add("", "{")
        for position, (key, item) in enumerate(value.items()):
            comma = "," if position else ""
            opened = opened and self._add(comma + newline(level + 1), quote(key)) and self._member(item, level)
            if not opened:
                return False
        return self._add("", (newline(level) if value else "") + "}")

    def _member(self, item: Any, level: int) -> bool:
        return self._room() and self._put(": ") and self.write(item, level + 1)

    def _array(self, value: list[Any], level: int) -> bool:
        if not self._add("", "["):
            return False
        for position, item in enumerate(value):
            if not (self._room() and self._put(", " if position else "") and self.write(item, level + 1)):
                return False
        return self._add("", "]")

    def _add(self, before: str, text: str) -> bool:
        return self._room() and self._put(before + text)

    def _put(self, text: str) -> bool:
        self.parts.append(text)
        self._size += len(text.encode(errors="surrogateescape"))
        return True

    def _room(self) -> bool:
        return self._size < MAX_SHOWN


def _scalar(value: Any) -> str | None:
    """Any value but a list or an object; None for a number that is not finite, at which RapidJSON's writer ends."""
    if isinstance(value, str):
        return quote(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str | None:
    """The shortest digits that read back the same, without an exponent from 1e-6 to 1e21; None if not finite."""
    if not isfinite(value):
        return None
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    power = int(exponent or 0)
    if not exponent or power > 20 or power < -6:
        return f"{mantissa}e{power}" if exponent else text
    sign, digits = "-" * (value < 0), mantissa.lstrip("-").replace(".", "")
    return f"{sign}{digits.ljust(power + 1, '0')}.0" if power > 0 else f"{sign}0.{'0' * (-power - 1)}{digits}"

"""Parses JSON token by token, to refuse it with RapidJSON's reason and offset.

Clients of TF Serving see these texts, such as `Missing a comma or ']' after an array element. at offset: 55`, so
headrace gives exactly the same texts. A body that the faster parsers treat in the same way never gets here.

The CPU time depends on the length of the tokens: 0.07 us per byte for long strings, 0.5 for numbers of two digits,
1.1 for lists like `1,1,1`. So an invalid body of 4 KiB takes 0.3 to 4.5 ms; orjson would refuse it in less than 10 us,
in its own words.
"""

import re
from typing import NoReturn, TypeAlias

from headrace_protos import Code
from headrace_server.errors import ServingError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

BOM = b"\xef\xbb\xbf"
MAX_EXPONENT = 308

MAX_DEPTH = 256
"""The maximum depth of lists and objects: more than any tensor has dimensions. RapidJSON's only limit is its stack."""

_SPACE = re.compile(rb"[ \n\r\t]*")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_NO_FRACTION = re.compile(rb"-?(?:0|[1-9][0-9]*)\.(?![0-9])")
_NO_EXPONENT = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?[eE][+-]?+(?![0-9])")
_HEX = re.compile(rb"[0-9A-Fa-f]{4}")
_ESCAPES = {b'"': b'"', b"\\": b"\\", b"/": b"/", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_WORDS: dict[bytes, tuple[bytes, Json]] = {b"n": (b"null", None), b"t": (b"true", True), b"f": (b"false", False)}
_NOT_FINITE = {b"NaN": float("nan"), b"Infinity": float("inf"), b"Inf": float("inf")}


class JsonError(ServingError):
    """Text that is not JSON. TF Serving's json_tensor.cc has the message around RapidJSON's reason.

    Attributes:
        reason: RapidJSON's reason.
        offset: The offset in bytes at which parsing stopped.
    """

    def __init__(self, reason: str, offset: int | None = None) -> None:
        where = "" if offset is None else f" at offset: {offset}"
        super().__init__(Code.INVALID_ARGUMENT, f"JSON Parse error: {reason}{where}")
        self.reason = reason
        self.offset = offset or 0


def parse_carefully(data: bytes) -> Json:
    """Parses any JSON value token by token: slow, but exact.

    Raises:
        ServingError: INVALID_ARGUMENT if the text is not valid JSON.
    """
    if not data:
        raise JsonError("The document is empty")
    return _Reader(data).document()


class _Reader:
    """A position in the bytes of one document."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = len(BOM) if data.startswith(BOM) else 0

    def document(self) -> Json:
        """Parses the first value."""
        self._skip_space()
        if self._peek() in (b"", b"\0", b"]", b"}", b",", b":"):
            self._refuse("The document is empty.")
        root: list[Json] = []
        stack: list[list[Json] | dict[str, Json]] = [root]
        key = ""
        while True:
            value = self._opened_or_scalar()
            inside = stack[-1]
            if isinstance(inside, list):
                inside.append(value)
            else:
                inside.setdefault(key, value)
            if isinstance(value, (list, dict)) and not self._closes(value):
                stack.append(value)
                if len(stack) > MAX_DEPTH:
                    self._refuse(f"More than {MAX_DEPTH} lists and objects are nested.")
                key = self._key() if isinstance(value, dict) else ""
                continue
            self._leave(stack)
            if len(stack) == 1:
                return root[0]
            key = self._key() if isinstance(stack[-1], dict) else ""

    def _opened_or_scalar(self) -> Json:
        first = self._peek()
        if first == b"[" or first == b"{":
            self._at += 1
            self._skip_space()
            return [] if first == b"[" else {}
        return self._scalar(first)

    def _closes(self, opened: list[Json] | dict[str, Json]) -> bool:
        if self._peek() != (b"]" if isinstance(opened, list) else b"}"):
            return False
        self._at += 1
        return True

    def _leave(self, stack: list[list[Json] | dict[str, Json]]) -> None:
        """Moves from the end of a value to the start of the next, leaving all lists and objects that end there."""
        while len(stack) > 1:
            self._skip_space()
            if self._peek() == b",":
                self._at += 1
                self._skip_space()
                return
            if not self._closes(stack[-1]):
                is_list = isinstance(stack[-1], list)
                self._refuse(
                    f"Missing a comma or {']' if is_list else '}'!r} after an "
                    f"{'array element' if is_list else 'object member'}."
                )
            stack.pop()

    def _key(self) -> str:
        if self._peek() != b'"':
            self._refuse("Missing a name for object member.")
        key = self._string()
        self._skip_space()
        if self._peek() != b":":
            self._refuse("Missing a colon after a name of object member.")
        self._at += 1
        self._skip_space()
        return key

    def _scalar(self, first: bytes) -> Json:
        if first == b'"':
            return self._string()
        if first in _WORDS:
            word, value = _WORDS[first]
            self._take(word)
            return value
        return self._number()

    def _take(self, word: bytes) -> None:
        for position in range(len(word)):
            if self._data[self._at : self._at + 1] != word[position : position + 1]:
                self._refuse("Invalid value.")
            self._at += 1

    def _number(self) -> int | float:
        found = _NUMBER.match(self._data, self._at)
        if found is None:
            return self._not_finite()
        for pattern, reason in (
            (_NO_FRACTION, "Miss fraction part in number."),
            (_NO_EXPONENT, "Miss exponent in number."),
        ):
            if bad := pattern.match(self._data, self._at):
                self._at = bad.end()
                self._refuse(reason)
        number = self._value_of(found)
        self._at = found.end()
        return number

    def _value_of(self, found: re.Match[bytes]) -> int | float:
        whole, fraction, exponent = found.groups()
        if fraction is None and exponent is None and len(whole) <= 20:
            integer = int(found[0])
            if -(2**63) <= integer < 2**64:
                return integer
        power = int(exponent[:9]) if exponent else 0
        if power > MAX_EXPONENT + len(fraction or b"") or (len(whole) > MAX_EXPONENT and float(whole) == float("inf")):
            self._refuse("Number too big to be stored in double.")
        return float(found[0])

    def _not_finite(self) -> float:
        sign = -1.0 if self._peek() == b"-" else 1.0
        self._at += sign < 0
        for word, value in _NOT_FINITE.items():
            if self._data.startswith(word, self._at):
                if word == b"Inf" and self._data.startswith(b"Infi", self._at):
                    break
                self._at += len(word)
                return sign * value
        if self._peek() in (b"N", b"I"):
            self._take(b"NaN" if self._peek() == b"N" else b"Infinity")
        return self._refuse("Invalid value.")

    def _string(self) -> str:
        self._at += 1
        parts = []
        while True:
            plain = _PLAIN.match(self._data, self._at)
            assert plain is not None  # the pattern matches at least the empty string
            parts.append(plain[0])
            self._at = plain.end()
            ending = self._peek()
            if ending == b'"':
                self._at += 1
                return b"".join(parts).decode(errors="surrogateescape")
            if ending in (b"", b"\0"):
                self._refuse("Missing a closing quotation mark in string.")
            if ending != b"\\":
                self._refuse("Invalid escape character in string.")
            parts.append(self._escaped())

    def _escaped(self) -> bytes:
        start = self._at
        letter = self._data[start + 1 : start + 2]
        if letter in _ESCAPES:
            self._at += 2
            return _ESCAPES[letter]
        if letter != b"u":
            self._refuse("Invalid escape character in string.")
        unit = self._unit(start, start)
        if 0xD800 <= unit < 0xDC00:
            second = self._unit(self._at, start) if self._data.startswith(b"\\u", self._at) else 0
            if not 0xDC00 <= second < 0xE000:
                self._refuse("The surrogate pair in string is invalid.", start)
            unit = 0x10000 + (unit - 0xD800 << 10) + (second - 0xDC00)
        return chr(unit).encode(errors="surrogatepass")

    def _unit(self, at: int, start: int) -> int:
        found = _HEX.match(self._data, at + 2)
        if found is None:
            self._refuse("Incorrect hex digit after \\u escape in string.", start)
        self._at = at + 6
        return int(found[0], 16)

    def _peek(self) -> bytes:
        return self._data[self._at : self._at + 1]

    def _skip_space(self) -> None:
        self._at = _SPACE.match(self._data, self._at).end()  # type: ignore[union-attr]  # it also matches no space

    def _refuse(self, reason: str, at: int | None = None) -> NoReturn:
        raise JsonError(reason, self._at if at is None else at)

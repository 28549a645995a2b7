"""Parses JSON as RapidJSON does: it accepts the same texts, and gives the same reason and offset for an error."""

import json
import re
from typing import NoReturn

import orjson

from headrace_server.errors import invalid
from headrace_server.services.json.careful import BOM, Json, parse_carefully
from headrace_server.services.json.text import show

CAREFUL_BYTES = 4 << 10
"""The maximum size of text that, if it must be parsed token by token, is parsed in place, in a few milliseconds."""

MAX_CAREFUL_BYTES = 64 << 10
"""The largest body that is parsed token by token, in up to 70 ms; above it, the reason for an error is less exact."""

_NESTED = (dict, list, str)

# What Python's own parser treats differently from RapidJSON: integers beyond 64 bits, doubles that may be too large,
# and surrogates.
_READ_OTHERWISE = re.compile(rb"(?<![.0-9])[0-9]{19}|[0-9]{300}|[eE][+-]?[0-9]{3}|\\u[dD][89a-fA-F]")


def parse(data: bytes) -> dict[str, Json]:
    """Parses the object in a body. Anything after it is ignored; of two members with one name, the first one counts.

    Bytes that are not UTF-8 are kept, as with Python's `surrogateescape`.

    Raises:
        ServingError: INVALID_ARGUMENT. TF Serving's json_tensor.cc has the texts around RapidJSON's reasons; beyond
            MAX_CAREFUL_BYTES the reason is the fast parser's.
    """
    document: Json = parse_quickly(data)
    if document is None:
        document = parse_tolerantly(data)
    if document is None:
        document = parse_carefully(data) if len(data) <= MAX_CAREFUL_BYTES else _refuse_quickly(data)
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {show(document)} Is not object")
    return document


def parse_quickly(data: bytes) -> dict[str, Json] | None:
    """Like `parse`, but fast; None if this parser cannot be sure that it treats the body as `parse` does."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) and _is_unambiguous(data, document) else None


def parse_tolerantly(data: bytes) -> Json:
    """Like `parse`, but slower, for NaN, bytes that are not UTF-8, repeated members, or anything after the end.

    None if the value is null, or if Python's parser refuses it or might treat it differently from RapidJSON.
    """
    if _READ_OTHERWISE.search(data):
        return None
    text = data.removeprefix(BOM).decode(errors="surrogateescape").lstrip(" \n\r\t")
    try:
        document: Json = _TOLERANT.raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None
    return document


def _refuse_quickly(data: bytes) -> NoReturn:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise invalid(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    raise invalid(
        f"JSON Parse error: in a body of more than {MAX_CAREFUL_BYTES} bytes, numbers must fit a double, and the names "
        "in an object must be unique"
    )


def _first_of_each(members: list[tuple[str, Json]]) -> Json:
    document = dict(members)
    if len(document) < len(members):
        document.clear()
        for name, value in members:
            document.setdefault(name, value)
    return document


_TOLERANT = json.JSONDecoder(object_pairs_hook=_first_of_each)


def _is_unambiguous(data: bytes, document: dict[str, Json]) -> bool:
    """Whether no object repeats a member's name: otherwise, the text has more colons than the document has members."""
    colons = data.count(b":")
    return colons == len(document) or (b"\\u00" not in data and colons == _colons(document))


def _colons(document: Json) -> int:
    found, waiting = 0, [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found += value.count(":")
        elif isinstance(value, dict):
            found += len(value) + sum(key.count(":") for key in value)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += [item for item in value if item.__class__ in _NESTED]
    return found

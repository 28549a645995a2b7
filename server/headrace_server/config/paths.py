r"""Converts paths of arbitrary bytes to text that protobuf's strings can hold, and back.

A path on Linux is bytes; Python reads bytes that are not UTF-8 as lone surrogates (os.fsdecode), which no protobuf
string may hold. Here, each of these bytes becomes a NUL and two hexadecimal digits: no path has a NUL of its own.
"""

import os
import re
from pathlib import Path

_BYTE = re.compile(rb"\x00([0-9a-f]{2})")


def as_text(path: str) -> str:
    """Converts a path to text that is always valid Unicode."""
    return re.sub("[\udc80-\udcff]", lambda match: f"\0{ord(match[0]) - 0xDC00:02x}", path)


def as_path(text: str) -> Path:
    """The path that `as_text` converted; any other text is returned unchanged."""
    return Path(os.fsdecode(_BYTE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())))

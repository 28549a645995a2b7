"""Reads the values of flags: durations, lists of numbers, names with values."""

import math
import re
from collections.abc import Sequence

from headrace_client.bench.errors import BenchError

MOST_RATE = 10_000_000.0
"""More calls per second than any machine can make."""

_HEADER = re.compile(r"[A-Za-z0-9_.-]+")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


def duration(flag: str, text: str) -> float:
    """Parses a duration in seconds, such as `20ms`, `1.5s`, `2m` or `3`; a bare number is in seconds.

    Raises:
        BenchError: The text is not a duration, or is not above 0.
    """
    unit = next((unit for unit in ("us", "ms", "s", "m") if text.endswith(unit)), "")
    seconds = _float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    if not (math.isfinite(seconds) and seconds > 0):
        raise BenchError(f"--{flag} must be a duration above 0, such as 20ms or 1.5s; was {text}")
    return seconds


def rates(flag: str, text: str) -> tuple[float, ...]:
    """Parses numbers of calls per second, separated by commas.

    Raises:
        BenchError: An item is not a number, or is impossible.
    """
    numbers = tuple(_float(part) for part in text.split(","))
    if not all(0 < number <= MOST_RATE for number in numbers):
        raise BenchError(
            f"--{flag} must be numbers above 0 and up to {MOST_RATE:,.0f}, separated by commas; was {text}"
        )
    return numbers


def weighted(flag: str, text: str) -> tuple[str, float]:
    """Parses a name and its weight, which is 1 if there is none.

    Raises:
        BenchError: The name is missing, or the weight is not a number above 0.
    """
    name, equals, weight = text.partition("=")
    number = _float(weight) if equals else 1.0
    if not name or not 0 < number <= MOST_RATE:
        raise BenchError(f"--{flag} must be NAME or NAME=WEIGHT, where WEIGHT is a number above 0; was {text!r}")
    return name, number


def counts(flag: str, text: str, most: int = 1_000_000) -> tuple[int, ...]:
    """Parses whole numbers of at least 1, separated by commas.

    Raises:
        BenchError: An item is not a whole number of at least 1, or is too large.
    """
    parts = text.split(",")
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= most for part in parts):
        raise BenchError(f"--{flag} must be whole numbers from 1 to {most:,}, separated by commas; was {text}")
    return tuple(int(part) for part in parts)


def count(flag: str, text: str, most: int = 1_000_000) -> int:
    """Parses a single whole number of at least 1.

    Raises:
        BenchError: The text is not a whole number of at least 1, or the number is too large.
    """
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise BenchError(f"--{flag} must be a whole number from 1 to {most:,}; was {text}")
    return int(text)


def choice(flag: str, text: str, choices: Sequence[str]) -> str:
    """Checks that a text is one of the given words, and returns it.

    Raises:
        BenchError: The text is none of the given words.
    """
    if text not in choices:
        raise BenchError(f"--{flag} must be one of {', '.join(choices)}; was {text}")
    return text


def metadata(flag: str, text: str) -> tuple[str, str]:
    """Parses the name and the value of a header.

    Raises:
        BenchError: The name or the value is missing, or has characters that headers do not have.
    """
    name, _, value = text.partition("=")
    if not (_HEADER.fullmatch(name) and value and value.isascii() and value.isprintable()):
        raise BenchError(f"--{flag} must be NAME=VALUE, in characters that a header may have; was {text!r}")
    return name.lower(), value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

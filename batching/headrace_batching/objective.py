"""A latency objective, such as `p99 20ms`: which share of requests must be answered within which time."""

import re
from dataclasses import dataclass

EXPECTATION = 'a percentile from p50 to p99.99 and a time, such as "p99 20ms"'
"""The text after "must be" in the error about an invalid objective."""

_FORM = re.compile(r"p(\d{2}(?:\.\d+)?)\s+(\d+(?:\.\d+)?)\s*(us|ms|s)", re.ASCII)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LOWEST, _HIGHEST = 50.0, 99.99
_SHORTEST, _LONGEST = 50e-6, 3600.0


class ObjectiveError(ValueError):
    """The text is not a latency objective."""


@dataclass(frozen=True, slots=True)
class LatencyObjective:
    """The share of requests that must be answered within a time, counted from a request's arrival in the queue.

    Attributes:
        text: The text as the operator wrote it.
        share: The share of requests, from 0.5 to 0.9999.
        seconds: The time, in seconds.
    """

    text: str
    share: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> "LatencyObjective":
        """Parses `p99 20ms`: a percentile, and a time in us, ms or s.

        Raises:
            ObjectiveError: The text is not an objective.
        """
        match = _FORM.fullmatch(text.strip())
        if match is not None:
            percentile, seconds = float(match[1]), float(match[2]) * _UNITS[match[3]]
            if _LOWEST <= percentile <= _HIGHEST and _SHORTEST <= seconds <= _LONGEST:
                return cls(text.strip(), percentile / 100, seconds)
        raise ObjectiveError(f"latency_objective must be {EXPECTATION}; was {text!r}")


def is_objective(text: str) -> bool:
    """Whether a text is an objective, or empty, which means none."""
    try:
        return not text or bool(LatencyObjective.parse(text))
    except ObjectiveError:
        return False

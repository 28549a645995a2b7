"""Counts how calls ended, by the kind of caller, and records unexpected ends."""

from collections import Counter, defaultdict

KEPT = 20
"""The maximum number of failures whose text is kept; the others are only counted."""


class Tally:
    """How the calls of each kind of caller ended."""

    def __init__(self) -> None:
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.slowest: dict[str, float] = defaultdict(float)
        self.failures: list[str] = []
        self.failed = 0

    def ended(self, kind: str, how: str, seconds: float = 0.0) -> None:
        """Counts an expected end, and how long it took."""
        self.ends[kind][how] += 1
        self.slowest[kind] = max(self.slowest[kind], seconds)

    def wrong(self, kind: str, what: str) -> None:
        """Counts an unexpected end."""
        self.ends[kind]["WRONG"] += 1
        self.failed += 1
        if len(self.failures) < KEPT:
            self.failures.append(f"{kind}: {what}")

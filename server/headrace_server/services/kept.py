"""Answers that hold until the server's state changes: a transport may keep them for callers who ask the same."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

Count = Callable[[Sequence[float]], None]
"""Told, in the event loop, of calls that were given an answer that had been kept: how many seconds each took."""


@runtime_checkable
class KeepsAnswers(Protocol):
    """The context of a gRPC call whose transport keeps answers."""

    def keep(self, count: Count) -> None:
        """Says that the answer to this call is the same for every call with the same request, until the state changes.

        The state of which answers tell: the states of versions, which of them serve, labels, and whether the server is
        ready. Only an answer that is OK is kept.
        """


def not_counted(seconds: Sequence[float]) -> None:
    """The `Count` of calls that nobody counts."""


def counted(observe: Callable[[float], None]) -> Count:
    """The `Count` of calls of which each is counted."""

    def count(seconds: Sequence[float]) -> None:
        for each in seconds:
            observe(each)

    return count

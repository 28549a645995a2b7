"""Answers that stay valid until the server's state changes: a transport can repeat one for an equal request."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

Count = Callable[[Sequence[float]], None]
"""Called in the event loop for calls that were given a kept answer, with the seconds that each took."""


@runtime_checkable
class KeepsAnswers(Protocol):
    """The context of a gRPC call whose transport keeps answers."""

    def keep(self, count: Count) -> None:
        """Marks the answer to this call as valid for every call with the same request, until the state changes.

        The state consists of the states of versions, which versions serve, the labels, and whether the server is ready.
        Answers of lasting methods report nothing else. Only an answer that is OK is kept.
        """


def not_counted(seconds: Sequence[float]) -> None:
    """A `Count` that counts nothing."""


def counted(observe: Callable[[float], None]) -> Count:
    """A `Count` that calls a function with the seconds of each call."""

    def count(seconds: Sequence[float]) -> None:
        for each in seconds:
            observe(each)

    return count

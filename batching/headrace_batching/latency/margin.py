"""The fraction of the objective's time to plan with: less after late answers, more while hardly any answer is late."""

from math import inf, sqrt

_FIRST, _LEAST, _MOST = 0.9, 0.5, 1.0
_LESS, _MORE = 0.95, 1.05

_TELLING = 3.0
"""The fraction exceeds `_FIRST` only if there were so many answers that the objective allows this many late ones.
"""

_RECOVERY = 2.0
"""A fraction below `_FIRST` grows after this many seconds with few late answers, even if there were few answers.

It grows from `_LEAST` to `_FIRST` in 13 steps: 26 seconds.
"""

_KEPT = 0.98
"""The fraction of the counts that is kept from one evaluation to the next."""


class Margin:
    """The fraction of the objective's time to plan with.

    Influences that the plan does not include, such as other models on the same threads or other load on the machine,
    show up as late answers. Only tasks that arrived after the last change show its effect. If older tasks counted, a
    single stall, whose tasks end late over several evaluations, would reduce the fraction several times.

    Args:
        share: The share of requests that the objective wants in time.

    Attributes:
        part: The fraction of the objective's time to plan with now.
        changed: When the fraction was last changed, in seconds of the clock; tasks that arrived earlier are not to be
            counted.
    """

    def __init__(self, share: float) -> None:
        self._allowed = 1 - share
        self._counted = 0.0
        self._late = 0.0
        self.part = _FIRST
        self.changed = -inf

    @property
    def late_share(self) -> float:
        """The share of late answers among those counted recently."""
        return self._late / self._counted if self._counted else 0.0

    def look(self, counted: int, late: int, now: float) -> float:
        """Returns the fraction to use from now on.

        Args:
            counted: The number of answers since the last call to tasks that arrived after `changed`.
            late: The number of those that took longer than the objective.
            now: The current time, in seconds.
        """
        self._counted = self._counted * _KEPT + counted
        self._late = self._late * _KEPT + late
        expected = self._allowed * self._counted
        if self._late > expected + 2 * sqrt(expected) + 1:
            self._set(max(_LEAST, self.part * _LESS), now)
        elif self._late < expected / 2:
            if expected >= _TELLING:
                self._set(min(_MOST, self.part * _MORE), now)
            elif self.part < _FIRST and now - self.changed >= _RECOVERY:
                self._set(min(_FIRST, self.part * _MORE), now)
        return self.part

    def _set(self, part: float, now: float) -> None:
        self.part = part
        self.changed = now
        self._counted = self._late = 0.0

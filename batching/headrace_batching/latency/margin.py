"""The fraction of the objective's time to plan with: less after late answers, more while hardly any is late."""

from math import sqrt

_FIRST, _LEAST, _MOST = 0.9, 0.5, 1.0
_LESS, _MORE = 0.95, 1.05

_TELLING = 3.0
"""Late answers that the objective allows among those counted, before a few late ones mean anything."""

_KEPT = 0.98
"""The fraction of the counts that is kept from one look to the next."""


class Margin:
    """The fraction of the objective's time to plan with.

    Influences that a plan does not see, such as other models on the same threads or other load on the machine, show in
    late answers.

    Args:
        share: The share of requests that the objective wants in time.
    """

    def __init__(self, share: float) -> None:
        self._allowed = 1 - share
        self._counted = 0.0
        self._late = 0.0
        self.part = _FIRST

    @property
    def late_share(self) -> float:
        """The share of late answers among those counted recently."""
        return self._late / self._counted if self._counted else 0.0

    def look(self, counted: int, late: int) -> float:
        """The fraction from now on.

        Args:
            counted: Answers since the last look.
            late: Those of them that took longer than the objective.
        """
        self._counted = self._counted * _KEPT + counted
        self._late = self._late * _KEPT + late
        expected = self._allowed * self._counted
        if self._late > expected + 2 * sqrt(expected) + 1:
            self._set(max(_LEAST, self.part * _LESS))
        elif expected >= _TELLING and self._late < expected / 2:
            self._set(min(_MOST, self.part * _MORE))
        return self.part

    def _set(self, part: float) -> None:
        self.part = part
        self._counted = self._late = 0.0

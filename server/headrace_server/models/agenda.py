"""The next action for all models, found by asking only the models that have changed."""

import heapq
from collections.abc import Mapping
from itertools import islice

from headrace_server.models.version_policy import Load, Unload
from headrace_server.models.versions import Model

Item = tuple[str, int]
"""A model's name and a version."""


class Agenda:
    """The next loads, and the next unloads. The model that has needed one for the longest time comes first.

    The caller holds the models' lock around every use.

    Args:
        models: The models, by name.
        touched: The names of the models that have changed since they were last asked; emptied here.
    """

    def __init__(self, models: Mapping[str, Model], touched: dict[str, None]) -> None:
        self._models = models
        self._touched = touched
        self._loads: dict[str, int] = {}
        self._unloads: dict[str, int] = {}
        self._due: list[tuple[float, str]] = []

    def look(self, now: float) -> None:
        """Asks each model that has changed, or has a load whose retry is due, what to load or unload next."""
        while self._due and self._due[0][0] <= now:
            self._touched[heapq.heappop(self._due)[1]] = None
        while self._touched:
            name = next(iter(self._touched))
            del self._touched[name]
            self._ask(name, now)

    def next_due(self) -> float | None:
        """When the next retry of a load is due, as far as is known; None means never."""
        return self._due[0][0] if self._due else None

    def next_unload(self) -> Item | None:
        """The first wanted unload; taking it changes the model, so that the model is asked again."""
        return next(iter(self._unloads.items()), None)

    def next_load(self) -> Item | None:
        """The first wanted load; as for `next_unload`, taking it changes the model."""
        return next(iter(self._loads.items()), None)

    def next_loads(self, most: int) -> list[Item]:
        """The first wanted loads, beginning with `next_load`."""
        return list(islice(self._loads.items(), most))

    def _ask(self, name: str, now: float) -> None:
        self._loads.pop(name, None)
        self._unloads.pop(name, None)
        model = self._models[name]
        match model.next_action(now):
            case Load(version):
                self._loads[name] = version
            case Unload(version):
                self._unloads[name] = version
            case None:
                due = model.next_due()
                if due is not None:
                    heapq.heappush(self._due, (due, name))

"""Which versions a loader may prepare for together, while a server starts with many models."""

import logging
from collections.abc import Callable, Mapping, Sequence

from headrace_server.models.agenda import Agenda, Item
from headrace_server.models.loader import Asked
from headrace_server.models.versions import Model

log = logging.getLogger(__name__)

TOGETHER = 128
"""The maximum number of versions that are prepared for at a time."""

SECONDS_EACH = 0.002
"""The maximum number of seconds that preparing for a small model takes, unless the machine is busy."""

Prepare = Callable[[Sequence[Asked]], None]
"""Prepares for the loads of these versions, so that they take less time; replaces earlier preparations."""


class Preparing:
    """Decides before each load whether to prepare for it and for the next ones.

    Args:
        models: The models, by name.
        agenda: Knows which loads are next.
        prepare: Prepares for several loads.
    """

    def __init__(self, models: Mapping[str, Model], agenda: Agenda, prepare: Prepare) -> None:
        self._prepare = prepare
        self._models = models
        self._agenda = agenda
        self._last: frozenset[Item] = frozenset()
        self._dropped = False

    def before(self, name: str, version: int) -> Sequence[Asked]:
        """The versions to prepare for before a load; never a single one, because preparing for it saves no time.

        The caller holds the models' lock.

        Args:
            name: The model's name.
            version: The version that is about to be loaded; the agenda still lists its load.
        """
        if (name, version) in self._last:
            return ()
        following = self._agenda.next_loads(TOGETHER)
        self._last = frozenset(following)
        if len(following) < 2:
            return ()
        return [Asked(name, version, self._models[name].aspired[version]) for name, version in following]

    def run_before(self, versions: Sequence[Asked], load: Callable[[], None]) -> None:
        """Prepares for versions, and then calls `load`, even if preparing has failed. On the thread of the load."""
        self._replace(versions)
        if self._dropped:  # `drop` was called while these were prepared
            self._replace(())
        load()

    def drop(self) -> None:
        """Frees unused preparations, including one that is under way. Any thread."""
        self._dropped = True
        self._replace(())

    def _replace(self, versions: Sequence[Asked]) -> None:
        try:
            self._prepare(versions)
        except BaseException:  # the thread must continue, since others wait for it
            log.exception("the next loads could not be prepared")

"""Which versions of a model can be called, and which one calls without a version go to."""

from collections.abc import Mapping
from typing import NamedTuple

from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Model


class Served(NamedTuple):
    """The versions of a model that can be called.

    Attributes:
        latest: The version for calls that name none; 0 if none can be called.
        ready: The versions in memory.
        awaited: The versions that a call waits for, if versions are loaded when they are called.
    """

    latest: int
    ready: Mapping[int, Servable]
    awaited: frozenset[int]


NOTHING = Served(0, {}, frozenset())


def served_at_once(model: Model) -> Served:
    """The versions that can be called if each is loaded as it appears."""
    return Served(max(model.serving, default=0), dict(model.serving), frozenset())


def served_on_demand(model: Model) -> Served:
    """The versions that can be called if each is loaded when it is called.

    A call that names no version is for the highest one that is in memory or at rest. If there is none,
    the call is for the highest of the others, and waits for the first load of that version.
    """
    states = {version: model.versions[version].state for version in model.aspired}
    over = (State.AVAILABLE, State.END)
    awaited = frozenset(version for version, state in states.items() if state not in over)
    resting = {version for version in awaited if states[version] is State.AT_REST or version in model.evicted}
    latest = max({*model.serving, *resting}, default=0) or max(awaited, default=0)
    return Served(latest, dict(model.serving), awaited)

"""Which versions of a model can be called, and which one a call without a version is for."""

from collections.abc import Mapping
from typing import NamedTuple

from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Model


class Served(NamedTuple):
    """The versions of a model that can be called.

    Attributes:
        latest: The version of a call that names none; 0 where none can be called.
        ready: Those in memory.
        awaited: Those that a call waits for, where versions are loaded when they are called.
    """

    latest: int
    ready: Mapping[int, Servable]
    awaited: frozenset[int]


NOTHING = Served(0, {}, frozenset())


def served_at_once(model: Model) -> Served:
    """The versions that can be called where each is loaded as it appears."""
    return Served(max(model.serving, default=0), dict(model.serving), frozenset())


def served_on_demand(model: Model) -> Served:
    """The versions that can be called where each is loaded when it is called.

    A version that is loaded for the first time is waited for only where there is no other.
    """
    states = {version: model.versions[version].state for version in model.aspired}
    over = (State.AVAILABLE, State.END)
    awaited = frozenset(version for version, state in states.items() if state not in over)
    resting = {version for version in awaited if states[version] is State.AT_REST or version in model.evicted}
    latest = max({*model.serving, *resting}, default=0) or max(awaited, default=0)
    return Served(latest, dict(model.serving), awaited)

"""Pure: versions aspired and versions loaded, to the one next action. TF Serving: AvailabilityPreservingPolicy."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from headrace_protos import ModelVersionStatus


class State(Enum):
    """Where a version is in its life; the values are those of ModelVersionStatus.State."""

    START = ModelVersionStatus.START
    LOADING = ModelVersionStatus.LOADING
    AVAILABLE = ModelVersionStatus.AVAILABLE
    UNLOADING = ModelVersionStatus.UNLOADING
    END = ModelVersionStatus.END


@dataclass(frozen=True, slots=True)
class Load:
    """Load this version."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload this version."""

    version: int


def next_action(aspired: Collection[int], states: Mapping[int, State]) -> Load | Unload | None:
    """What to do next for one model, so that it is never without a version while it could have one.

    Args:
        aspired: The versions that should be served.
        states: Of every version known; START is aspired and not tried yet.

    Returns:
        An unload once an aspired version is ready, or none is aspired, or two that nobody wants are ready (the lowest
        goes first); else a load of the highest aspired version not tried yet; else None.
    """
    ready = [version for version, state in states.items() if state is State.AVAILABLE]
    unwanted = [version for version in ready if version not in aspired]
    if unwanted and (not aspired or len(unwanted) < len(ready) or len(unwanted) > 1):
        return Unload(min(unwanted))
    untried = [version for version in aspired if states.get(version) is State.START]
    return Load(max(untried)) if untried else None


def latest(versions: Collection[int], count: int = 1) -> list[int]:
    """The `count` highest versions. TF Serving: the policy of a model whose configuration names none."""
    return sorted(versions, reverse=True)[:count]

"""Pure functions: which of the found versions are aspired, and which action comes next."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum

from headrace_protos import ModelVersionStatus
from headrace_server.config.model_config import All, Latest, Specific, VersionPolicy


class State(Enum):
    """The state of a version; the values are those of ModelVersionStatus.State, which lacks `AT_REST`."""

    START = ModelVersionStatus.START
    LOADING = ModelVersionStatus.LOADING
    AVAILABLE = ModelVersionStatus.AVAILABLE
    UNLOADING = ModelVersionStatus.UNLOADING
    END = ModelVersionStatus.END
    AT_REST = "AT_REST"
    """The version is not in memory, and is loaded when it is called."""

    @property
    def can_be_called(self) -> bool:
        """Whether a call is answered, possibly only after a load."""
        return self in (State.AVAILABLE, State.AT_REST)

    @property
    def on_the_wire(self) -> ModelVersionStatus.State:
        """The state that is reported to callers: a version that can be called is reported as available."""
        return ModelVersionStatus.AVAILABLE if self is State.AT_REST else self.value


@dataclass(frozen=True, slots=True)
class Load:
    """Load this version."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload this version."""

    version: int


def preserve_availability(aspired: Collection[int], states: Mapping[int, State]) -> Load | Unload | None:
    """The next action for one model, chosen so that the model is never without a version if it could have one.

    TF Serving's AvailabilityPreservingPolicy does the same.

    Args:
        aspired: The versions that should be served.
        states: The state of every known version; START means aspired and not tried yet.

    Returns: An unload of the lowest ready version that is not aspired; the last such version stays while versions are
        aspired and none of them can be called. Otherwise a load of the highest aspired version that was not tried yet;
        None if there is none.
    """
    unwanted = [version for version, state in states.items() if state is State.AVAILABLE and version not in aspired]
    answers = any(version in states and states[version].can_be_called for version in aspired)
    if unwanted and (not aspired or answers or len(unwanted) > 1):
        return Unload(min(unwanted))
    untried = [version for version in aspired if states.get(version) is State.START]
    return Load(max(untried)) if untried else None


def preserve_resources(aspired: Collection[int], states: Mapping[int, State]) -> Load | Unload | None:
    """The next action for one model, chosen so that no more of its versions are in memory than are aspired.

    TF Serving's ResourcePreservingPolicy does the same.

    Args:
        aspired: The versions that should be served.
        states: The state of every known version; START means aspired and not tried yet.

    Returns: An unload of the lowest ready version that is not aspired, and None until all such versions have ended.
        After that, a load of the highest aspired version that was not tried yet; None if there is none.
    """
    unwanted = {version: state for version, state in states.items() if version not in aspired}
    ready = [version for version, state in unwanted.items() if state is State.AVAILABLE]
    if ready:
        return Unload(min(ready))
    if any(state is not State.END for state in unwanted.values()):
        return None
    untried = [version for version in aspired if states.get(version) is State.START]
    return Load(max(untried)) if untried else None


def chosen(versions: Collection[int], policy: VersionPolicy) -> list[int]:
    """The found versions that a model's configuration selects, the highest first."""
    match policy:
        case Latest(count):
            return sorted(versions, reverse=True)[:count]
        case All():
            return sorted(versions, reverse=True)
        case Specific(wanted):
            return sorted(set(wanted) & set(versions), reverse=True)


POLICIES = {"availability_preserving": preserve_availability, "resource_preserving": preserve_resources}
"""The policies by the names that `--aspired_version_policy` uses."""

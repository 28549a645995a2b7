"""Decides which versions are in memory if they do not all fit, and which one makes room for another."""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headrace_protos import Code
from headrace_server.config.run import Config
from headrace_server.errors import LoadError
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import Model

Item = tuple[str, int]
"""A model's name and a version."""

MULTIPLIER = 1.2
"""The memory that a version is assumed to use, as a multiple of the size of its files.

TF Serving's bundle_factory_util.cc has the same number.
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of how many versions, and how many of their bytes, may be in memory.

    Attributes:
        versions: The maximum number of versions, of all models together; 0 means any number.
        memory: The maximum number of bytes; 0 means any number.
    """

    versions: int = 0
    memory: int = 0

    @classmethod
    def of(cls, config: Config) -> "Bounds":
        """The bounds that a configuration sets."""
        return cls(config.max_loaded_models, config.model_memory_mb << 20)

    def __bool__(self) -> bool:
        return bool(self.versions or self.memory)


@dataclass(slots=True)
class Held:
    """A version that is in memory, or is being loaded.

    Attributes:
        size: The number of bytes that the version uses, estimated from the size of its files.
        servable: The servable for requests; None while it is being loaded or unloaded.
        leaving: Whether the version is being unloaded.
    """

    size: int
    servable: Servable | None = None
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """The steps that must come before a version is loaded.

    Attributes:
        evict: The version that must be unloaded first; None if there is none.
        wait: Whether another load or unload, or a call, must end first.
    """

    evict: Item | None = None
    wait: bool = False


class NoRoom(LoadError):
    """Raised for a version that cannot be loaded as long as others stay in memory."""


class TooLarge(LoadError):
    """Raised for a version that can never be loaded."""


class Rooms:
    """The versions in memory, and the order in which they are evicted.

    Callers hold the models' lock around every use except `measure`.

    A version without files, such as an ensemble's, needs no room.

    Args:
        bounds: The limits on versions in memory.
        models: The models, by name.
        evicted: Called for each version that is unloaded to make room.
    """

    def __init__(
        self,
        bounds: Bounds,
        models: Mapping[str, Model],
        evicted: Callable[[str, int], None] = lambda _name, _version: None,
    ) -> None:
        self.bounds = bounds
        self._models = models
        self._evicted = evicted
        self._measured: tuple[Item, Path, int] | None = None  # the version to load next, its folder and its size
        self.held: dict[Item, Held] = {}

    @property
    def memory(self) -> int:
        """The number of bytes that the versions in memory use."""
        return sum(held.size for held in self.held.values())

    def has_measured(self, item: Item, path: Path) -> bool:
        """Whether a version in this folder was measured last, and has neither got room nor been refused since."""
        return self._measured is not None and self._measured[:2] == (item, path)

    def measure(self, item: Item, path: Path) -> None:
        """Determines how much memory the version to load next will use; reads its folder, so this may take long."""
        self._measured = (item, path, memory_of(path))

    def for_load(self, name: str, version: int) -> Room:
        """The steps before a version is loaded; if there are none, the version is counted as in memory.

        Args:
            name: The model's name.
            version: The version that was measured last.

        Raises:
            NoRoom: Nothing can be unloaded.
            TooLarge: The version needs more than all the memory for models.
        """
        assert self._measured is not None
        size = self._measured[2]
        if self.bounds.memory and size > self.bounds.memory:
            self._measured = None
            text = f"model {name} version {version} needs {_mb(size)} MB, more than --model_memory_mb allows"
            raise TooLarge(Code.RESOURCE_EXHAUSTED, f"{text} ({_mb(self.bounds.memory)})")
        staying = [held for held in self.held.values() if not held.leaving]
        if not self._exceeds(self.held.values(), size):
            self._measured = None
            self.held[name, version] = Held(size)
            return Room()
        if not self._exceeds(staying, size):
            return Room(wait=True)
        loaded = [(item, held.servable) for item, held in self.held.items() if held.size and held.servable is not None]
        victim = least_recently_used(loaded, partial(self._may_leave, name))
        if victim is not None:
            return Room(victim)
        if len(staying) < len(self.held) or any(held.servable is None for held in staying) or self._claimed():
            return Room(wait=True)
        self._measured = None
        raise NoRoom(
            Code.RESOURCE_EXHAUSTED,
            f"model {name} version {version} does not fit in memory: none of the "
            f"{len(self.held)} versions there can be unloaded",
        )

    def loaded(self, name: str, version: int, servable: Servable) -> None:
        """Records that a version has been loaded."""
        if (name, version) in self.held:
            self.held[name, version].servable = servable

    def leave(self, name: str, version: int, *, evicted: bool = False) -> None:
        """Records that the unload of a version begins; an evicted version may be loaded again when it is called."""
        if evicted:
            self._models[name].evicted.add(version)
            self._evicted(name, version)
        if held := self.held.get((name, version)):
            held.servable, held.leaving = None, True

    def settle(self, name: str, version: int) -> None:
        """Records that a load or an unload has ended: a version that does not serve needs no room."""
        if version not in self._models[name].serving:
            self.held.pop((name, version), None)

    def _exceeds(self, held: Collection[Held], size: int) -> bool:
        """Whether these versions and another one of the given size are too many or too large."""
        if not size:
            return False
        versions, memory = self.bounds.versions, self.bounds.memory
        taken = [each.size for each in held if each.size]
        return bool((versions and len(taken) >= versions) or (memory and sum(taken) + size > memory))

    def _may_leave(self, loading: str, item: Item, servable: Servable) -> bool:
        """Whether a version may be evicted to make room for one of the model `loading`.

        It may only if it could be loaded again. An older version of `loading` itself, which serves until the new one
        does, may be evicted as well.
        """
        name, version = item
        model = self._models[name]
        wanted = version in model.aspired or name == loading
        free = model.versions[version].state is State.AVAILABLE and not model.claims[version]
        return wanted and free and not servable.keeps_state

    def _claimed(self) -> bool:
        return any(self._models[name].claims[version] for name, version in self.held)


def least_recently_used(
    versions: Iterable[tuple[Item, Servable]], may_leave: Callable[[Item, Servable], bool]
) -> Item | None:
    """The version to unload: the least recently used one that may leave, preferably one that no call uses now.

    A version that is in use is unloaded once its calls have been answered. Versions that were used later are not
    examined, since calls wait for the result.
    """
    first_in_use = None
    for item, servable in sorted(versions, key=lambda each: (each[1].used, each[0])):
        if may_leave(item, servable):
            if not servable.in_use:
                return item
            first_in_use = first_in_use or item
    return first_in_use


def memory_of(path: Path) -> int:
    """The number of bytes that a version is assumed to need, from the sizes of its files.

    TF Serving's EstimateResourceFromPath does the same.
    """
    return int(MULTIPLIER * _size_of(path))


def _size_of(path: Path) -> int:
    try:
        if path.is_file():
            return path.stat().st_size
        return sum(os.stat(os.path.join(folder, name)).st_size for folder, _, names in os.walk(path) for name in names)
    except OSError:
        return 0  # errors are reported when it is loaded


def _mb(size: int) -> int:
    return -(-size >> 20)

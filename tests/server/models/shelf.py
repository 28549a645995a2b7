"""Versions for a manager to load, and a running manager with the state that tests observe."""

from collections.abc import Mapping
from pathlib import Path
from threading import Event

import pytest

from headrace_batching import BatchThreads
from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.manager import Manager
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State
from headrace_server.models.versions import VersionStatus
from tests.support.running import eventually

from .backend import PATIENCE, Adder


def settled(manager: Manager, *names: str) -> dict[str, VersionStatus]:
    """The highest version of each model that is available or has failed, once each has one."""
    found: dict[str, VersionStatus] = {}

    def all_settled() -> bool:
        now = manager.wait_settled(names, given_up=lambda: True)
        found.update({name: status for name, status in now.items() if status is not None})
        return found.keys() == set(names)

    eventually(all_settled)
    return found


class Shelf:
    """The versions that a manager may load: each has a test backend, some are broken, some load slowly."""

    def __init__(self) -> None:
        self.threads = BatchThreads(1)
        self.loads: list[tuple[str, int]] = []
        self.backends: dict[tuple[str, int], Adder] = {}
        self.broken: dict[int, Exception] = {}
        self.held: dict[int, Event] = {}
        self.kinds: dict[int, type[Servable]] = {}

    def load(self, name: str, version: int, path: Path) -> Servable:
        assert path == Path(f"/{name}/{version}")
        self.loads.append((name, version))
        if version in self.held:
            assert self.held[version].wait(PATIENCE)
        if version in self.broken:
            raise self.broken[version]
        backend = self.backends[name, version] = Adder()
        return self.kinds.get(version, Servable)(name, version, backend, self.threads, None)


class Models:
    """A running manager, and the state that tests observe."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.manager = Manager(shelf.load)

    def aspire(self, *versions: int, name: str = "m") -> None:
        self.manager.aspire(name, {version: Path(f"/{name}/{version}") for version in versions})

    def states(self, name: str = "m") -> dict[int, State]:
        return {status.version: status.state for status in self.manager.statuses(name)}

    def reach(self, states: Mapping[int, State], name: str = "m") -> None:
        """Waits until exactly these versions are known, in these states."""
        eventually(lambda: self.states(name) == states)

    def asked(self, version: int | None = None, name: str = "m") -> int:
        """The version that serves a request."""
        with self.manager.servable(name, version) as servable:
            return servable.version

    def missing(self, version: int | None = None, name: str = "m") -> str:
        with pytest.raises(ServingError) as raised, self.manager.servable(name, version):
            pass
        assert raised.value.code == Code.NOT_FOUND
        return raised.value.message

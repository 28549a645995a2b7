"""Which versions serve, by name and by label: the only map from a name to a version."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headrace_protos import Code
from headrace_server.errors import NotInMemory, ServingError, invalid, not_found, status_of
from headrace_server.models.acting import Acting, LoadVersion
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.retrying import Retrying
from headrace_server.models.room import Rooms
from headrace_server.models.servable import Servable
from headrace_server.models.served import NOTHING, Served, served_at_once, served_on_demand
from headrace_server.models.settling import Settled, Settling
from headrace_server.models.versions import Clock, Models, VersionStatus
from headrace_server.models.waking import Waited, Waking

Publish = Callable[[str, Mapping[int, Servable], int], None]
"""Told of a model's name, its versions that are ready, and which one a request without a version is for."""

Labels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Tallies:
    """Who is told what happens where not all versions may be in memory. Any thread.

    Attributes:
        waited: Of each call that has waited for a load.
        evicted: Of each version that is unloaded to make room for another.
    """

    waited: Waited = lambda _name, _version, _seconds: None
    evicted: Callable[[str, int], None] = lambda _name, _version: None


class Manager:
    """Keeps loaded what the source aspires to, on threads of its own.

    Requests never wait for it: they read a map of which a model's versions are replaced as a whole.

    Args:
        load: Makes a servable from a model's name, a version and its folder.
        options: How many at once, how often, and in which order; None for the defaults.
        clock: For the pauses between tries, and for timeouts; None for the system's.
        publish: Told of a model's versions that are ready, whenever they have changed and before any is closed.
        changed: Told of every change of what can be asked of it. Any thread.
        tallies: Told what happens where not all versions may be in memory.
    """

    def __init__(
        self,
        load: LoadVersion,
        options: ManagerOptions | None = None,
        clock: Clock | None = None,
        publish: Publish | None = None,
        changed: Callable[[], None] = lambda: None,
        tallies: Tallies | None = None,
    ) -> None:
        options, clock, tallies = options or ManagerOptions(), clock or Clock(), tallies or Tallies()
        self._tell = publish
        on_demand = bool(options.bounds)
        self._changed = changed
        self._served_of = served_on_demand if on_demand else served_at_once
        told = self._publish if on_demand else lambda _: changed()
        self._models = Models(options.policy, told, on_demand=on_demand)
        self.rooms = Rooms(options.bounds, self._models.by_name, tallies.evicted) if on_demand else None
        self._waking = Waking(self._models, tallies.waited)
        self._acting = Acting(self._models, load, options, clock, self._publish, self.rooms)
        self._settling = Settling(self._models, clock)
        self._retrying = Retrying(self._models, clock)
        self._served: dict[str, Served] = {}
        self._labels: Labels = {}
        self._stopping = False

    def start(self) -> None:
        """Starts to load and unload."""
        self._acting.start()

    def initial_load_done(self) -> None:
        """From now on as many loads at once as `num_load_threads` says."""
        self._acting.initial_load_done()

    def let_go(self) -> None:
        """Lets those go who wait for models: the server is about to stop."""
        self._settling.let_go()

    def stop(self) -> None:
        """Unloads everything, waiting for the calls that still run and the loads that have begun."""
        self._settling.let_go()
        with self._models.changed:
            self._stopping = True
            for model in self._models.by_name.values():
                model.aspire({})
        self._acting.stop()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Says which versions of a model should be served, from now on. Any thread."""
        with self._models.changed:
            if not self._stopping:
                self._models.aspire(name, versions)

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """A version, leased: it stays loaded until the end of the `with` block that it is to be used in.

        Args:
            name: The model's.
            version: Which one, by number or by label; None for the highest that is ready.

        Raises:
            NotInMemory: It is loaded when it is called, and has not been, or has had to make room.
            ServingError: NOT_FOUND; INVALID_ARGUMENT for a label that the model has not. TF Serving: basic_manager.cc
                and server_core.cc have the texts.
        """
        if isinstance(version, str):
            version = self._labelled(name, version)
        while True:
            served = self._served.get(name, NOTHING)
            number = served.latest if version is None else version
            servable = served.ready.get(number)
            if servable is None:
                if number in served.awaited:
                    raise NotInMemory(name, number)
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {wanted}")
            if servable.lease():
                return servable
            # It is being unloaded, so the map has been replaced since we read it.

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """As `servable`, after a wait for a version that is not in memory.

        Args:
            name: The model's.
            version: Which one, by number or by label; None for the highest that can be called.
            deadline: When to give up, on the monotonic clock; None for never.

        Raises:
            ServingError: As `servable`; DEADLINE_EXCEEDED, it was not loaded in time; RESOURCE_EXHAUSTED, it finds no
                room.
        """
        try:
            return self.servable(name, version)
        except NotInMemory as error:
            return await self._waking.until_found(partial(self.servable, name, version), error, deadline)

    def begin_load(self, name: str, version: int | None = None) -> Future[VersionStatus] | None:
        """Begins to load a version that is not in memory; what becomes of it. Any thread.

        Args:
            name: The model's.
            version: Which one; None for the one that a call without a version is for.

        Returns:
            None where it is in memory, or cannot be loaded.
        """
        with self._models.changed:
            served = self._served.get(name, NOTHING)
            number = served.latest if version is None else version
            if number not in served.awaited:
                return None
            self._models.changed.notify_all()
            return self._models.by_name[name].await_load(number)

    def load(self, name: str) -> None:
        """Loads the version that a call without a version is for, and returns when it is in memory. Any thread.

        Raises:
            ServingError: It cannot be loaded.
        """
        awaited = self.begin_load(name)
        status = None if awaited is None else awaited.result()
        if status is not None and status.error is not None:
            code, text = status_of(status.error)
            raise ServingError(code, f"model {name} version {status.version} cannot be loaded: {text}")

    def sizes(self) -> list[tuple[tuple[str, int], int]]:
        """The versions in memory, where not all may be, and the bytes that each is taken to need."""
        if self.rooms is None:
            return []
        with self._models.changed:
            return [(item, held.size) for item, held in self.rooms.held.items()]

    def at_rest(self) -> int:
        """How many versions are loaded when they are called, and are not in memory."""
        return sum(len(served.awaited) for served in list(self._served.values()))

    def assign_labels(self, labels: Labels, *, to_unavailable: bool) -> None:
        """Replaces the labels of all models, or none of them.

        Args:
            labels: For each model, the version of each label.
            to_unavailable: Whether a label that is new, or stays with its version, may name one that is not available.

        Raises:
            ServingError: FAILED_PRECONDITION, a version is not available. TF Serving: server_core.cc.
        """
        with self._models.changed:
            for name, versions in labels.items():
                for label, version in sorted(versions.items()):
                    kept = self._labels.get(name, {}).get(label, version) == version
                    if not (to_unavailable and kept) and not self._is_available(name, version):
                        raise ServingError(
                            Code.FAILED_PRECONDITION,
                            f"Request to assign label to version {version} of model {name}, "
                            "which is not currently available for inference",
                        )
            self._labels = labels
            self._changed()

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that there ever was, the highest first; empty for a model never seen."""
        with self._models.changed:
            return self._models.statuses(name)

    def names(self) -> list[str]:
        """Every model that there ever was."""
        with self._models.changed:
            return list(self._models.by_name)

    def mark(self) -> int:
        """The present, for `wait_settled`."""
        return self._models.mark()

    def wait_settled(
        self, names: Collection[str], since: int = 0, *, timeout: float | None = None
    ) -> dict[str, VersionStatus]:
        """Waits until each model has a version that is available or has failed; the highest such one of each.

        Args:
            names: The models'.
            since: Failures before this `mark` do not count.
            timeout: Seconds; None waits without limit, as TF Serving does at start-up.

        Raises:
            TimeoutError: It did not happen in time.
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        return self._settling.wait(names, since, timeout)

    def wait_settled_unless(self, names: Collection[str], since: int, given_up: Callable[[], bool]) -> Settled:
        """The same, but None for a model that has none, once waiting is given up and none has a version under way.

        Args:
            names: The models'.
            since: Failures before this `mark` do not count.
            given_up: Whether a model without any version is to be waited for no longer; asked again at each `wake`.

        Raises:
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        return self._settling.wait_unless(names, since, given_up)

    def looked(self) -> None:
        """Takes note of a look at the base paths that has ended: what failed and has changed since is begun anew."""
        self._retrying.look()
        self._settling.wake()

    def wait_withdrawn(self, name: str, *, ended: bool = False) -> None:
        """Waits until no version of a model that is not aspired any more can be called.

        Args:
            name: The model's.
            ended: Whether to wait for the end of every version, too: until its memory is free.

        Raises:
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        self._settling.wait_withdrawn(name, ended=ended)

    def wake(self) -> None:
        """Makes those who wait for models ask again whether they have given up. Any thread."""
        self._settling.wake()

    def _labelled(self, name: str, label: str) -> int:
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return version

    def _is_available(self, name: str, version: int) -> bool:
        model = self._models.by_name.get(name)
        status = model.versions.get(version) if model else None
        return status is not None and status.state.can_be_called

    def _publish(self, name: str) -> None:
        """Lets requests have what of a model can be called now; whoever is told is told of changes alone."""
        before, served = self._served.get(name, NOTHING), self._served_of(self._models.by_name[name])
        self._served[name] = served
        if self._tell is not None and (served.latest, served.ready) != (before.latest, before.ready):
            self._tell(name, served.ready, served.latest)
        self._changed()

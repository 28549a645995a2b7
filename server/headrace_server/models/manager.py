"""The versions that serve, by name and by label: the only map from a name to a version."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from headrace_protos import Code
from headrace_server.errors import NotInMemory, ServingError, invalid, not_found, status_of
from headrace_server.models.acting import Acting
from headrace_server.models.loader import LoadVersion
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.preparing import Prepare
from headrace_server.models.retrying import Retrying
from headrace_server.models.room import Rooms
from headrace_server.models.servable import Servable
from headrace_server.models.served import NOTHING, Served, served_at_once, served_on_demand
from headrace_server.models.settling import Settled, Settling
from headrace_server.models.versions import Clock, Models, VersionStatus
from headrace_server.models.waking import Waited, Waking

Publish = Callable[[str, Mapping[int, Servable], int], None]
"""Called with a model's name, its versions that are ready, and the one for requests without a version."""

Labels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Tallies:
    """Listeners that are called only if not all versions may be in memory. Any thread.

    Attributes:
        waited: Called for each call that has waited for a load.
        evicted: Called for each version that is unloaded to make room for another.
    """

    waited: Waited = lambda _name, _version, _seconds: None
    evicted: Callable[[str, int], None] = lambda _name, _version: None


class Manager:
    """Loads the versions that the source aspires to, and unloads others, on threads of its own.

    Requests never wait for it: they read a map in which a model's versions are replaced as a whole.

    Args:
        load: Makes a servable from a model's name, a version and its folder.
        options: How many loads run at the same time, how often a load is tried, which load or unload is next, and how
            many models fit in memory; None means the defaults.
        clock: Measures the pauses between tries; None for the system's clock.
        publish: Called with a model's versions that are ready, whenever they have changed and before any is closed.
        changed: Called whenever something that the manager reports has changed. Any thread.
        labelled: Called with the labels of all models, whenever they have been assigned.
        tallies: Listeners that are called only if not all versions may be in memory.
        prepare: Prepares for several loads while the server starts; None if nothing can be prepared.
    """

    def __init__(
        self,
        load: LoadVersion,
        options: ManagerOptions | None = None,
        clock: Clock | None = None,
        publish: Publish | None = None,
        changed: Callable[[], None] = lambda: None,
        labelled: Callable[[Labels], None] = lambda _: None,
        tallies: Tallies | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        options, clock, tallies = options or ManagerOptions(), clock or Clock(), tallies or Tallies()
        self._tell = publish
        on_demand = bool(options.bounds)
        self._changed = changed
        self._tell_labels = labelled
        self._served_of = served_on_demand if on_demand else served_at_once
        on_change = self._publish if on_demand else lambda _: changed()
        self._models = Models(options.policy, on_change, on_demand=on_demand)
        self.rooms = Rooms(options.bounds, self._models.by_name, tallies.evicted) if on_demand else None
        self._waking = Waking(self._models, tallies.waited)
        self._acting = Acting(self._models, load, options, clock, self._publish, self.rooms, prepare)
        self._settling = Settling(self._models)
        self._retrying = Retrying(self._models, clock)
        self._served: dict[str, Served] = {}
        self._labels: Labels = {}
        self._stopping = False

    def start(self) -> None:
        """Starts to load and unload."""
        self._acting.start()

    def initial_load_done(self) -> None:
        """Limits concurrent loads to `num_load_threads` from now on."""
        self._acting.initial_load_done()

    def let_go(self) -> None:
        """Releases those who wait for models, because the server is about to stop."""
        self._settling.let_go()

    def stop(self) -> None:
        """Unloads everything, after waiting for the running calls and the loads that have begun."""
        self._settling.let_go()
        with self._models.changed:
            self._stopping = True
            for model in self._models.by_name.values():
                model.aspire({})
        self._acting.stop()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Sets the versions of a model that should be served from now on. Any thread."""
        with self._models.changed:
            if not self._stopping:
                self._models.aspire(name, versions)

    def together(self) -> AbstractContextManager[object]:
        """A context in which `aspire` is called for several models, before any of them changes. Any thread."""
        return self._models.changed

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """Leases a version: it stays loaded until the end of the `with` block.

        Args:
            name: The model's name.
            version: The version's number or label; None for the highest that is ready.

        Raises:
            NotInMemory: The version can be called, but is not in memory. The caller has it loaded (`waking.py`), and
                calls this function again.
            ServingError: NOT_FOUND; INVALID_ARGUMENT for a label that the model does not have. TF Serving:
                basic_manager.cc and server_core.cc have the texts.
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
            # The version is being unloaded, so the map has changed since it was read: look again.

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """Like `servable`, but first waits for a version that is not in memory.

        Args:
            name: The model's name.
            version: The version's number or label; None for the highest that can be called.
            deadline: When to give up, on the monotonic clock; None means never.

        Raises:
            ServingError: As for `servable`; DEADLINE_EXCEEDED if the version was not loaded in time; RESOURCE_EXHAUSTED
                if there is no room for it.
        """
        try:
            return self.servable(name, version)
        except NotInMemory as error:
            return await self._waking.until_found(partial(self.servable, name, version), error, deadline)

    def begin_load(self, name: str, version: int | None = None) -> Future[VersionStatus] | None:
        """Begins to load a version that is not in memory, and returns the outcome as a future. Any thread.

        Args:
            name: The model's name.
            version: The version; None for the one that calls without a version go to.

        Returns: The future; None if the version is in memory, or cannot be loaded.
        """
        with self._models.changed:
            served = self._served.get(name, NOTHING)
            number = served.latest if version is None else version
            if number not in served.awaited:
                return None
            self._models.changed.notify_all()
            return self._models.by_name[name].await_load(number)

    def load(self, name: str) -> None:
        """Loads the version that calls without a version go to, and returns when it is in memory. Any thread.

        Raises:
            ServingError: The version cannot be loaded.
        """
        awaited = self.begin_load(name)
        status = None if awaited is None else awaited.result()
        if status is not None and status.error is not None:
            code, text = status_of(status.error)
            raise ServingError(code, f"model {name} version {status.version} cannot be loaded: {text}")

    def sizes(self) -> list[tuple[tuple[str, int], int]]:
        """The versions in memory and their estimated sizes in bytes, if not all may be in memory."""
        if self.rooms is None:
            return []
        with self._models.changed:
            return [(item, held.size) for item, held in self.rooms.held.items()]

    def at_rest(self) -> int:
        """The number of versions at rest: they are not in memory, and are loaded when they are called."""
        return sum(len(served.awaited) for served in list(self._served.values()))

    def assign_labels(self, labels: Labels, *, to_unavailable: bool) -> None:
        """Replaces the labels of all models, or, on an error, none of them.

        Args:
            labels: For each model, the version of each label.
            to_unavailable: Whether a label that is new or unchanged may name a version that is not available.

        Raises:
            ServingError: FAILED_PRECONDITION if a version is not available, as in TF Serving's server_core.cc.
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
            self._tell_labels(labels)
            self._changed()

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that ever existed, the highest first; empty for an unknown model."""
        with self._models.changed:
            return self._models.statuses(name)

    def names(self) -> list[str]:
        """The names of all models that ever existed."""
        with self._models.changed:
            return list(self._models.by_name)

    def mark(self) -> int:
        """The number of the latest event, for `wait_settled`."""
        return self._models.mark()

    def wait_settled(
        self, names: Collection[str], since: int = 0, given_up: Callable[[], bool] = lambda: False
    ) -> Settled:
        """Waits until each model has a version that is available or has failed, and returns the highest of each.

        Args:
            names: The models' names.
            since: Failures before this `mark` do not count.
            given_up: Whether to stop waiting for a model without any version, which gets None; asked again at each
                `wake`. TF Serving never gives up.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        return self._settling.wait(names, since, given_up)

    def retry(self, name: str) -> None:
        """Begins to load the failed versions of a model again, whether or not their files have changed. Any thread."""
        self._retrying.begin(name)

    def looked(self) -> None:
        """Records that a scan of the base paths has ended, and restarts failed versions whose files have changed."""
        self._retrying.look()
        self._settling.wake()

    def wait_withdrawn(self, name: str, *, ended: bool = False) -> None:
        """Waits until no version of a model that is no longer aspired can be called.

        Args:
            name: The model's name.
            ended: Whether to wait for the end of every version too, until its memory is free.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        self._settling.wait_withdrawn(name, ended=ended)

    def wake(self) -> None:
        """Makes those who wait for models check again whether to give up. Any thread."""
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
        """Makes the callable versions of a model visible to requests; calls listeners only after a change."""
        before, served = self._served.get(name, NOTHING), self._served_of(self._models.by_name[name])
        self._served[name] = served
        if self._tell is not None and (served.latest, served.ready) != (before.latest, before.ready):
            self._tell(name, served.ready, served.latest)
        self._changed()

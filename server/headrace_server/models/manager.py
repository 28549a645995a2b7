"""Loads and unloads versions, hands out servables: the only map from name to version."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Condition, Thread

from headrace_server.errors import ServingError, not_found, status_of
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import Load, State, Unload, next_action

log = logging.getLogger(__name__)

LoadVersion = Callable[[str, int, Path], Servable]
Serving = Mapping[str, Mapping[int, Servable]]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What is known of one version; `error` only where a load failed."""

    version: int
    state: State
    error: Exception | None = None


@dataclass(slots=True)
class Model:
    """One model's versions: those aspired, with their folders, and the status of every one ever seen."""

    aspired: Mapping[int, Path] = field(default_factory=dict)
    versions: dict[int, VersionStatus] = field(default_factory=dict)
    serving: dict[int, Servable] = field(default_factory=dict)

    def aspire(self, versions: Mapping[int, Path]) -> None:
        """Takes note of the versions wanted; one that is new, or wanted again after its end, starts over."""
        for version in versions:
            status = self.versions.get(version)
            if status is None or (status.state is State.END and version not in self.aspired):
                self.versions[version] = VersionStatus(version, State.START)
        for version in set(self.versions) - set(versions):
            if self.versions[version].state is State.START:
                self.versions[version] = VersionStatus(version, State.END)
        self.aspired = dict(versions)

    def next_action(self) -> Load | Unload | None:
        """What the version policy wants done."""
        return next_action(self.aspired, {version: status.state for version, status in self.versions.items()})

    @property
    def settled(self) -> bool:
        """Whether a version is available, or all that were wanted have ended."""
        states = {status.state for status in self.versions.values()}
        return State.AVAILABLE in states or states == {State.END}


class Manager:
    """Keeps loaded what the source aspires to, one action at a time, on a thread of its own.

    Requests never wait for it: they read a map that is replaced as a whole.

    Args:
        load: Makes a servable from a model's name, a version and its folder.
        publish: Told of every version that is ready, by model, whenever that has changed and before any is closed.
    """

    def __init__(self, load: LoadVersion, publish: Callable[[Serving], None] | None = None) -> None:
        self._load = load
        self._tell = publish
        self._changed = Condition()
        self._models: dict[str, Model] = {}
        self._serving: Serving = {}
        self._stopping = False
        self._thread = Thread(target=self._manage, name="manager", daemon=True)

    def start(self) -> None:
        """Starts acting."""
        self._thread.start()

    def stop(self) -> None:
        """Unloads everything, waiting for the calls that still run."""
        with self._changed:
            self._stopping = True
            for model in self._models.values():
                model.aspire({})
            self._changed.notify_all()
        self._thread.join()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Says which versions of a model should be served, from now on. Any thread."""
        with self._changed:
            model = self._models.setdefault(name, Model())
            if dict(versions) != model.aspired or not model.versions:
                model.aspire(versions)
                self._changed.notify_all()

    def servable(self, name: str, version: int | None = None) -> Servable:
        """A version, leased: it stays loaded until the end of the `with` block that it is to be used in.

        Args:
            name: The model's.
            version: Which one; None for the highest that is ready.

        Raises:
            ServingError: NOT_FOUND. TF Serving: basic_manager.cc has the texts.
        """
        while True:
            versions = self._serving.get(name, {})
            servable = versions.get(max(versions, default=0) if version is None else version)
            if servable is None:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {wanted}")
            if servable.lease():
                return servable
            # It is being unloaded, so the map has been replaced since we read it.

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that there ever was, the highest first; empty for a model never seen."""
        with self._changed:
            model = self._models.get(name)
            return sorted(model.versions.values(), key=lambda s: -s.version) if model else []

    def wait_settled(self, name: str, timeout: float | None = None) -> list[VersionStatus]:
        """Waits until a version of the model is available, or none can be; its versions, highest first.

        Args:
            name: The model's.
            timeout: Seconds; None waits without limit, as TF Serving does at start-up.

        Raises:
            TimeoutError: It did not happen in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_settled(name), timeout):
                raise TimeoutError(f"model {name} has no version yet")
        return self.statuses(name)

    def _is_settled(self, name: str) -> bool:
        return self._stopping or (name in self._models and self._models[name].settled)

    def _manage(self) -> None:
        while True:
            with self._changed:
                step = self._next()
                while step is None and not self._stopping:
                    self._changed.wait()
                    step = self._next()
            if step is None:
                return
            step()

    def _next(self) -> Callable[[], None] | None:
        """The next action of any model; unloads come first, since they free memory."""
        loads = []
        for name, model in self._models.items():
            match model.next_action():
                case Unload(version):
                    return partial(self._unload_version, name, version)
                case Load(version):
                    loads.append(partial(self._load_version, name, version, model.aspired[version]))
        return loads[0] if loads else None

    def _load_version(self, name: str, version: int, path: Path) -> None:
        self._set(name, VersionStatus(version, State.LOADING))
        began = time.monotonic()
        try:
            servable = self._load(name, version, path)
        except Exception as error:
            code, text = status_of(error)
            log.error("model %s version %d cannot be loaded: %s", name, version, text)
            self._set(name, VersionStatus(version, State.END, ServingError(code, text)))
            return
        log.info("model %s version %d loaded in %.0f ms", name, version, (time.monotonic() - began) * 1e3)
        with self._changed:
            self._models[name].serving[version] = servable
            self._publish(name)
        self._set(name, VersionStatus(version, State.AVAILABLE))

    def _unload_version(self, name: str, version: int) -> None:
        self._set(name, VersionStatus(version, State.UNLOADING))
        with self._changed:
            servable = self._models[name].serving.pop(version)
            self._publish(name)
        servable.close()
        log.info("model %s version %d unloaded", name, version)
        with self._changed:
            again = version in self._models[name].aspired  # since the unload was decided
            self._set(name, VersionStatus(version, State.START if again else State.END))

    def _publish(self, name: str) -> None:
        self._serving = {**self._serving, name: dict(self._models[name].serving)}
        if self._tell is not None:
            self._tell(self._serving)

    def _set(self, name: str, status: VersionStatus) -> None:
        with self._changed:
            self._models[name].versions[status.version] = status
            self._changed.notify_all()

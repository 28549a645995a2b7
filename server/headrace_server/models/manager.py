"""Loads and unloads versions, hands out servables: the only map from name to version."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from threading import Condition, Thread

from headrace_protos import Code
from headrace_server.errors import ServingError, invalid, not_found, status_of
from headrace_server.models.memory import release as release_memory
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import State, Unload, preserve_availability
from headrace_server.models.versions import Attempt, Model, Policy, VersionStatus

log = logging.getLogger(__name__)

LoadVersion = Callable[[str, int, Path], Servable]
Serving = Mapping[str, Mapping[int, Servable]]
Publish = Callable[[Serving], None]
Labels = Mapping[str, Mapping[str, int]]
Clock = Callable[[], float]

CANCELLED = ServingError(Code.CANCELLED, "Loading of servable cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerOptions:
    """How versions are loaded. TF Serving: the flags of the same names.

    Attributes:
        num_load_threads: Loads at once; 0 is one at a time on the manager's own thread, which does nothing meanwhile.
        num_unload_threads: Unloads at once; 0 likewise.
        num_initial_load_threads: Loads at once until `initial_load_done`.
        max_num_load_retries: Tries after the first one that failed.
        load_retry_interval: Seconds between two tries.
        policy: What to do next for one model.
    """

    num_load_threads: int = 0
    num_unload_threads: int = 0
    num_initial_load_threads: int = 0
    max_num_load_retries: int = 0
    load_retry_interval: float = 0.0
    policy: Policy = preserve_availability


@dataclass(slots=True)
class _Threads:
    """How many actions of one kind may run at once, and how many do."""

    limit: int
    running: int = 0

    @property
    def free(self) -> bool:
        return self.running < max(1, self.limit)


@dataclass(frozen=True, slots=True)
class _Action:
    name: str
    run: Callable[[], None]
    threads: _Threads


PATIENCE_SECONDS = 0.2
"""Between two questions whether waiting is given up."""


class Manager:
    """Keeps loaded what the source aspires to, on threads of its own.

    Requests never wait for it: they read maps that are replaced as a whole. A load that failed is tried again later,
    and until then holds up nothing else.

    Args:
        load: Makes a servable from a model's name, a version and its folder.
        options: How many at once, how often, and in which order.
        clock: Seconds, for the pauses between tries.
        publish: Told of every version that is ready, by model, whenever that has changed and before any is closed.
    """

    def __init__(
        self,
        load: LoadVersion,
        options: ManagerOptions = ManagerOptions(),
        clock: Clock = time.monotonic,
        publish: Publish | None = None,
    ) -> None:
        self._load = load
        self._tell = publish
        self._options = options
        self._clock = clock
        self._changed = Condition()
        self._events = count(1)
        self._models: dict[str, Model] = {}
        self._serving: Serving = {}
        self._labels: Labels = {}
        self._loads = _Threads(options.num_initial_load_threads)
        self._unloads = _Threads(options.num_unload_threads)
        self._letting_go = False
        self._stopping = False
        self._thread = Thread(target=self._manage, name="manager", daemon=True)

    def start(self) -> None:
        """Starts acting."""
        self._thread.start()

    def initial_load_done(self) -> None:
        """From now on as many loads at once as `num_load_threads` says."""
        with self._changed:
            self._loads.limit = self._options.num_load_threads

    def let_go(self) -> None:
        """Lets those go who wait for models: the server is about to stop."""
        with self._changed:
            self._letting_go = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Unloads everything, waiting for the calls that still run and the loads that have begun."""
        with self._changed:
            self._letting_go = self._stopping = True
            for model in self._models.values():
                model.aspire({})
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Says which versions of a model should be served, from now on. Any thread."""
        with self._changed:
            if self._stopping:
                return
            model = self._models.setdefault(name, Model(self._events, self._options.policy))
            if dict(versions) != model.aspired:
                model.aspire(versions)
                self._changed.notify_all()

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """A version, leased: it stays loaded until the end of the `with` block that it is to be used in.

        Args:
            name: The model's.
            version: Which one, by number or by label; None for the highest that is ready.

        Raises:
            ServingError: NOT_FOUND; INVALID_ARGUMENT for a label that the model has not. TF Serving: basic_manager.cc
                and server_core.cc have the texts.
        """
        if isinstance(version, str):
            version = self._labelled(name, version)
        while True:
            versions = self._serving.get(name, {})
            servable = versions.get(max(versions, default=0) if version is None else version)
            if servable is None:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise not_found(f"Servable not found for request: {wanted}")
            if servable.lease():
                return servable
            # It is being unloaded, so the map has been replaced since we read it.

    def assign_labels(self, labels: Labels, *, to_unavailable: bool) -> None:
        """Replaces the labels of all models, or none of them.

        Args:
            labels: For each model, the version of each label.
            to_unavailable: Whether a label that is new, or stays with its version, may name one that is not available.

        Raises:
            ServingError: FAILED_PRECONDITION, a version is not available. TF Serving: server_core.cc.
        """
        with self._changed:
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

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that there ever was, the highest first; empty for a model never seen."""
        with self._changed:
            model = self._models.get(name)
            return sorted(model.versions.values(), key=lambda s: -s.version) if model else []

    def mark(self) -> int:
        """The present, for `wait_settled`."""
        return next(self._events)

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
        with self._changed:
            if not self._changed.wait_for(lambda: self._letting_go or self._all_settled(names, since), timeout):
                raise TimeoutError(f"no version yet of {', '.join(n for n in names if not self._settled(n, since))}")
            statuses = {name: self._settled(name, since) for name in names}
        if not all(statuses.values()):
            raise ServingError(Code.UNAVAILABLE, "the server is stopping")
        return {name: status for name, status in statuses.items() if status is not None}

    def wait_settled_unless(
        self, names: Collection[str], since: int, given_up: Callable[[], bool]
    ) -> dict[str, VersionStatus | None]:
        """The same, but None for a model that has none, once waiting is given up and none has a version under way.

        Args:
            names: The models'.
            since: Failures before this `mark` do not count.
            given_up: Whether a model without any version is to be waited for no longer; asked every so often.

        Raises:
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        while True:
            try:
                return dict(self.wait_settled(names, since, timeout=PATIENCE_SECONDS))
            except TimeoutError:
                if not given_up():
                    continue
            with self._changed:
                statuses = {name: self._settled(name, since) for name in names}
                waiting = [name for name, status in statuses.items() if status is None and name in self._models]
                if not any(self._models[name].aspired for name in waiting):
                    return statuses

    def _settled(self, name: str, since: int) -> VersionStatus | None:
        return self._models[name].settled(since) if name in self._models else None

    def _all_settled(self, names: Collection[str], since: int) -> bool:
        return all(self._settled(name, since) for name in names)

    def _labelled(self, name: str, label: str) -> int:
        version = self._labels.get(name, {}).get(label)
        if version is None:
            raise invalid(f"Unrecognized servable version label: {label}")
        return version

    def _is_available(self, name: str, version: int) -> bool:
        model = self._models.get(name)
        status = model.versions.get(version) if model else None
        return status is not None and status.state is State.AVAILABLE

    def _manage(self) -> None:
        threads: list[Thread] = []
        while (action := self._next_when_free()) is not None:
            if action.threads.limit:
                thread = Thread(target=self._run, args=(action,), name=action.name, daemon=True)
                thread.start()
                threads = [thread, *filter(Thread.is_alive, threads)]
            else:
                self._run(action)
        for thread in threads:
            thread.join()

    def _run(self, action: _Action) -> None:
        try:
            action.run()
        finally:
            with self._changed:
                action.threads.running -= 1
                self._changed.notify_all()

    def _next_when_free(self) -> _Action | None:
        """Waits for something to do; None once all is done and nothing more is to come."""
        with self._changed:
            while (action := self._next()) is None:
                if self._stopping and not self._loads.running and not self._unloads.running:
                    return None
                self._changed.wait(self._pause())
            action.threads.running += 1
            return action

    def _pause(self) -> float | None:
        """Seconds until a load is to be tried again."""
        due = [at for model in self._models.values() if (at := model.next_due()) is not None]
        return max(0.0, min(due) - self._clock()) if due and self._loads.free else None

    def _next(self) -> _Action | None:
        """The next action of any model, already noted as begun; unloads come first, since they free memory."""
        now = self._clock()
        loads = []
        for name, model in self._models.items():
            action = model.next_action(now)
            if isinstance(action, Unload) and self._unloads.free:
                model.set(action.version, State.UNLOADING)
                return self._action(self._unload_version, name, action.version, self._unloads)
            if action is not None and not isinstance(action, Unload):
                loads.append((name, action.version))
        if not loads or not self._loads.free:
            return None
        name, version = loads[0]
        return self._action(self._load_version, name, version, self._loads, self._models[name].begin_load(version))

    def _action(self, run: Callable[..., None], name: str, version: int, threads: _Threads, *rest: Attempt) -> _Action:
        self._changed.notify_all()  # its state has changed
        kind = "load" if threads is self._loads else "unload"
        return _Action(f"{kind}-{name}-{version}", partial(run, name, version, *rest), threads)

    def _load_version(self, name: str, version: int, attempt: Attempt) -> None:
        began = time.monotonic()
        try:
            servable = self._load(name, version, attempt.path)
        except BaseException as error:  # a model that calls sys.exit must not end the manager
            self._load_failed(name, version, attempt, _failure(error))
            return
        try:
            admitted = self._admit(name, version, attempt, servable)
        except Exception as error:  # nor may a version that whoever is told of it cannot serve
            _free(servable)
            self._load_failed(name, version, attempt, _failure(error))
            return
        if not admitted:
            self._end_cancelled(name, version, servable)
            return
        log.info("model %s version %d loaded in %.0f ms", name, version, (time.monotonic() - began) * 1e3)

    def _admit(self, name: str, version: int, attempt: Attempt, servable: Servable) -> bool:
        """Lets requests have a version, unless nobody wants it any more."""
        with self._changed:
            if attempt.cancelled:
                return False
            model = self._models[name]
            model.serving[version] = servable
            try:
                self._publish(name)
            except Exception:
                del model.serving[version]
                self._publish(name)
                raise
            del model.loading[version]
            model.set(version, State.AVAILABLE)
            return True

    def _end_cancelled(self, name: str, version: int, servable: Servable) -> None:
        _free(servable)
        log.info("model %s version %d: its load was cancelled", name, version)
        with self._changed:
            self._models[name].end(version, CANCELLED)

    def _load_failed(self, name: str, version: int, attempt: Attempt, error: ServingError) -> None:
        attempt.failures += 1
        left = self._options.max_num_load_retries + 1 - attempt.failures
        log.error("model %s version %d cannot be loaded (%d more tries): %s", name, version, left, error.message)
        with self._changed:
            if attempt.cancelled or left <= 0:
                self._models[name].end(version, error)
            else:
                attempt.error = error
                attempt.due = self._clock() + self._options.load_retry_interval

    def _unload_version(self, name: str, version: int) -> None:
        with self._changed:
            servable = self._models[name].serving.pop(version)
            self._publish(name)
        _free(servable)
        log.info("model %s version %d unloaded", name, version)
        with self._changed:
            self._models[name].end(version)

    def _publish(self, name: str) -> None:
        self._serving = {**self._serving, name: dict(self._models[name].serving)}
        if self._tell is not None:
            self._tell(self._serving)


def _free(servable: Servable) -> None:
    """Closes a version; one that cannot be closed is nevertheless gone."""
    try:
        servable.close()
    except Exception:
        log.exception("model %s version %d cannot be freed", servable.name, servable.version)
    release_memory()


def _failure(error: BaseException) -> ServingError:
    if isinstance(error, Exception):
        return ServingError(*status_of(error))
    return ServingError(Code.INTERNAL, f"the model raised {error!r}")

"""Models and their versions: the aspired ones, the state of every version ever seen, and the loads under way."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from threading import Condition, RLock

from headrace_server.errors import ServingError
from headrace_server.models.attempts import Attempt, Trouble
from headrace_server.models.servable import Servable
from headrace_server.models.version_policy import Load, State, Unload

Policy = Callable[[Collection[int], Mapping[int, State]], Load | Unload | None]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The state of one version.

    Attributes:
        version: The version's number.
        state: The version's state, such as LOADING or AVAILABLE.
        error: The error of a load that failed or was cancelled; otherwise None.
        event: A number greater than that of every earlier change of any model.
    """

    version: int
    state: State
    error: Exception | None = None
    event: int = field(default=0, compare=False)

    @property
    def has_ended_well(self) -> bool:
        """Whether the version has been unloaded normally; such a version is no longer shown."""
        return self.state is State.END and self.error is None


class Model:
    """One model's versions. The owner holds a lock around every use.

    Args:
        events: Yields the numbers of the changes, in order.
        policy: Decides what to do next.
        touch: Called at every change.
        on_demand: Whether the model's versions are loaded when they are called.

    Attributes:
        aspired: The folders of the versions that are wanted.
        versions: The state of every version.
        serving: The versions in memory that can be called.
        loading: The loads that are not over.
        troubles: The errors of versions that are not available.
        claims: For each version, how many calls wait for it to be loaded.
        evicted: The versions that are being unloaded to make room; they are loaded again when they are called.
    """

    def __init__(
        self, events: Iterator[int], policy: Policy, touch: Callable[[], None], *, on_demand: bool = False
    ) -> None:
        self._events = events
        self._policy = policy
        self._touch = touch
        self._on_demand = on_demand
        self._waiting: dict[int, list[Future[VersionStatus]]] = {}
        self.claims: Counter[int] = Counter()
        self.evicted: set[int] = set()
        self.aspired: Mapping[int, Path] = {}
        self.versions: dict[int, VersionStatus] = {}
        self.serving: dict[int, Servable] = {}
        self.loading: dict[int, Attempt] = {}
        self.troubles: dict[int, Trouble] = {}

    @property
    def failed(self) -> list[int]:
        """The versions that are wanted and have failed to load."""
        return [
            version
            for version in self.troubles
            if version in self.aspired and self.versions[version].state is State.END
        ]

    def set(self, version: int, state: State, error: Exception | None = None) -> None:
        """Records a version's new state."""
        if state is State.AVAILABLE:
            self.troubles.pop(version, None)
        self.versions[version] = status = VersionStatus(version, state, error, next(self._events))
        if state in (State.AVAILABLE, State.AT_REST, State.END):
            _resolve(self._waiting.pop(version, ()), status)
        self._touch()

    def aspire(self, versions: Mapping[int, Path]) -> None:
        """Records the wanted versions; one that is new, or wanted again after its end, starts over."""
        for version in versions:
            status = self.versions.get(version)
            if status is None or (status.state is State.END and version not in self.aspired):
                self.begin_anew(version)
        for version in self.versions.keys() - versions.keys():
            self._let_go(version)
        self.aspired = dict(versions)
        self._touch()

    def begin_anew(self, version: int) -> None:
        """Marks a version to be loaded: now, or on demand if versions are loaded on demand and none is in use."""
        rests = self._on_demand and not self.claims[version] and not self.serving and not self.loading
        self.set(version, State.AT_REST if rests else State.START)

    def await_load(self, version: int) -> "Future[VersionStatus]":
        """Returns a future for a version's state once its load has ended; begins the load if the version is at rest."""
        awaited: Future[VersionStatus] = Future()
        status = self.versions[version]
        if status.state in (State.AVAILABLE, State.END):
            awaited.set_result(status)
            return awaited
        self._waiting.setdefault(version, []).append(awaited)
        if status.state is State.AT_REST:
            self.versions[version] = VersionStatus(version, State.START, None, next(self._events))
            self._touch()
        return awaited

    def _let_go(self, version: int) -> None:
        """Cancels a version that was not tried yet or that waits for a retry; a running load continues to its end."""
        self.troubles.pop(version, None)
        attempt = self.loading.get(version)
        if attempt is not None:
            attempt.cancelled = True
            if attempt.due is not None:
                del self.loading[version]
                self.set(version, State.END, attempt.error)
        elif self.versions[version].state in (State.START, State.AT_REST):
            self.set(version, State.END)

    def next_action(self, now: float) -> Load | Unload | None:
        """The action that the policy wants, or a retry that is due."""
        action = self._policy(self.aspired, {version: status.state for version, status in self.versions.items()})
        if action is not None:
            return action
        due = [version for version, attempt in self.loading.items() if attempt.due is not None and attempt.due <= now]
        return Load(max(due)) if due else None

    def next_due(self) -> float | None:
        """When the first of the waiting retries is due."""
        return min((attempt.due for attempt in self.loading.values() if attempt.due is not None), default=None)

    def begin_load(self, version: int) -> Attempt:
        """Records that a try of a version begins."""
        attempt = self.loading.setdefault(version, Attempt(self.aspired[version]))
        attempt.path, attempt.due = self.aspired[version], None
        self._touch()
        if self.versions[version].state is not State.LOADING:
            self.set(version, State.LOADING)
        return attempt

    def failed_again(self, version: int, error: ServingError) -> bool:
        """Records a failed try; returns whether the error differs from that of the try before."""
        trouble = self.troubles.setdefault(version, Trouble())
        before, trouble.said = trouble.said, error.message
        return before != trouble.said

    def wait(self, version: int, error: ServingError, due: float) -> None:
        """Records that a try has failed, and when the next one may begin."""
        attempt = self.loading[version]
        attempt.error, attempt.due = error, due
        self._touch()

    def fail(self, version: int, error: ServingError, now: float) -> None:
        """Records that a version's last try has failed; it is loaded again when its files change."""
        trouble = self.troubles.setdefault(version, Trouble())
        trouble.rounds, trouble.files, trouble.failed_at = trouble.rounds + 1, self.loading[version].files, now
        self.end(version, error)

    def turn_away(self, version: int, error: ServingError) -> None:
        """Sets a version whose load has not begun to AT_REST, with an error for the calls that wait for the version."""
        self.loading.pop(version, None)
        if self.versions[version].state in (State.START, State.LOADING):
            self.set(version, State.AT_REST, error)

    def end(self, version: int, error: Exception | None = None) -> None:
        """Ends a version, or restarts it if it has been wanted again since its end was decided."""
        attempt = self.loading.pop(version, None)
        evicted = version in self.evicted
        self.evicted.discard(version)
        if version not in self.aspired or not (attempt is None or attempt.cancelled):
            self.set(version, State.END, error)
        elif evicted and not self.claims[version]:
            self.set(version, State.AT_REST)
        else:
            self.begin_anew(version)

    def is_withdrawn(self, *, ended: bool) -> bool:
        """Whether no version is served or loading; with `ended`, also whether every version has ended."""
        over = all(status.state is State.END for status in self.versions.values())
        return not self.serving and not self.loading and (over or not ended)

    def settled(self, since: int) -> VersionStatus | None:
        """The highest version that can be called or has failed to load since an event; None if there is none yet."""
        for version in sorted(self.versions, reverse=True):
            status = self.versions[version]
            failed = status.state is State.END and status.error is not None and status.event > since
            if failed or (status.state.can_be_called and version in self.aspired):
                return status
        return None


def _resolve(waiting: Iterable["Future[VersionStatus]"], status: VersionStatus) -> None:
    for awaited in waiting:
        if awaited.set_running_or_notify_cancel():
            awaited.set_result(status)


class Models:
    """Every model that ever had aspired versions. The caller holds `changed` around every use.

    Args:
        policy: Decides what to do next for one model.
        on_change: Called with the name of a model at every change of it.
        on_demand: Whether versions are loaded when they are called.

    Attributes:
        changed: The lock, which also notifies the manager's thread that there may be something to do.
        news: Notifies those who wait for `awaited` models of their changes; has the same lock.
        awaited: The names of the models that somebody waits for, each with the number of waiters.
        by_name: The models, by name.
        touched: The models that have changed since the set was last emptied.
    """

    def __init__(
        self, policy: Policy, on_change: Callable[[str], None] = lambda _: None, *, on_demand: bool = False
    ) -> None:
        lock = RLock()
        self.changed, self.news = Condition(lock), Condition(lock)
        self.awaited: Counter[str] = Counter()
        self.by_name: dict[str, Model] = {}
        self.touched: dict[str, None] = {}
        self._policy = policy
        self._on_change = on_change
        self._on_demand = on_demand
        self._events = count(1)

    def mark(self) -> int:
        """A new event number. Any thread, with or without the lock."""
        return next(self._events)

    def aspire(self, name: str, versions: Mapping[int, Path]) -> None:
        """Records the wanted versions of a model."""
        model = self.by_name.get(name)
        if model is None:
            touch = partial(self._touch, name)
            model = self.by_name[name] = Model(self._events, self._policy, touch, on_demand=self._on_demand)
        if dict(versions) != model.aspired:
            model.aspire(versions)
            self.changed.notify_all()

    def tell(self, name: str) -> None:
        """Wakes only the threads that wait for this model: thousands of models change while a server starts."""
        if self.awaited.get(name):
            self.news.notify_all()

    def _touch(self, name: str) -> None:
        self.touched[name] = None
        self.tell(name)
        self._on_change(name)

    def is_on_its_way(self, name: str) -> bool:
        """Whether a version of a model is wanted and has not failed."""
        model = self.by_name.get(name)
        return model is not None and any(model.versions[version].state is not State.END for version in model.aspired)

    def settled(self, name: str, since: int) -> VersionStatus | None:
        """Like `Model.settled`, but None for an unknown model."""
        return self.by_name[name].settled(since) if name in self.by_name else None

    def is_withdrawn(self, name: str, *, ended: bool) -> bool:
        """Like `Model.is_withdrawn`, but true for an unknown model."""
        return name not in self.by_name or self.by_name[name].is_withdrawn(ended=ended)

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that ever existed, the highest first; empty for an unknown model."""
        model = self.by_name.get(name)
        return sorted(model.versions.values(), key=lambda status: -status.version) if model else []


class Clock:
    """The manager's clock; tests use another one."""

    def now(self) -> float:
        """Seconds since some moment in the past."""
        return time.monotonic()

    def wait(self, changed: Condition, seconds: float | None) -> None:
        """Waits for a condition that the caller holds, at most this long; None means no limit."""
        changed.wait(seconds)

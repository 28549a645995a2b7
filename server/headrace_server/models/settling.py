"""Waiting until models have settled: each has a version that is available, or one that has failed to load."""

from collections.abc import Callable, Collection

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.versions import Clock, Models, VersionStatus

Settled = dict[str, VersionStatus | None]


class Settling:
    """Those who wait for models. They are woken by each change of a model's versions, and by `wake`.

    Args:
        models: What they wait for.
        clock: Measures their timeouts.
    """

    def __init__(self, models: Models, clock: Clock) -> None:
        self._models = models
        self._clock = clock
        self._let_go = False

    def let_go(self) -> None:
        """Ends all waiting, now and from now on: the server is about to stop."""
        with self._models.changed:
            self._let_go = True
            self._models.changed.notify_all()

    def wake(self) -> None:
        """Makes those who wait ask again whether to give up. Any thread."""
        with self._models.changed:
            self._models.changed.notify_all()

    def wait(self, names: Collection[str], since: int, timeout: float | None) -> dict[str, VersionStatus]:
        """Waits until each model has settled; the highest version of each that is available or has failed.

        Args:
            names: The models'.
            since: Failures before this event do not count.
            timeout: Seconds; None waits without limit.

        Raises:
            TimeoutError: It did not happen in time.
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        end = None if timeout is None else self._clock.now() + timeout
        with self._models.changed:
            unsettled = list(names)
            while self._some_unsettled(unsettled, names, since):
                left = None if end is None else end - self._clock.now()
                if left is not None and left <= 0:
                    raise TimeoutError(f"no version yet of {', '.join(self._every_unsettled(names, since))}")
                self._clock.wait(self._models.changed, left)
            settled = self._settled(names, since)
        return {name: status for name, status in settled.items() if status is not None}

    def wait_unless(self, names: Collection[str], since: int, given_up: Callable[[], bool]) -> Settled:
        """The same without a timeout; None for a model that has no version, once waiting is given up.

        A version that is on its way to be loaded is waited for all the same.

        Args:
            names: The models'.
            since: Failures before this event do not count.
            given_up: Whether a model without any version is to be waited for no longer; asked again at each `wake`.

        Raises:
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        with self._models.changed:
            unsettled = list(names)
            while self._some_unsettled(unsettled, names, since):
                if given_up() and not any(map(self._models.aspires, self._every_unsettled(names, since))):
                    break
                self._clock.wait(self._models.changed, None)
            return self._settled(names, since)

    def wait_withdrawn(self, name: str, *, ended: bool) -> None:
        """Waits until no version of a model can be called or is being loaded; with `ended`, until all have ended.

        Raises:
            ServingError: UNAVAILABLE, the server is about to stop.
        """
        with self._models.changed:
            while not self._models.is_withdrawn(name, ended=ended):
                if self._let_go:
                    raise ServingError(Code.UNAVAILABLE, "the server is stopping")
                self._clock.wait(self._models.changed, None)

    def _some_unsettled(self, unsettled: list[str], names: Collection[str], since: int) -> bool:
        """Whether a model has not settled, found out without a look at each of them at each change.

        Args:
            unsettled: Those that had not when they were last looked at; what has settled since goes from its end.
            names: All of them: in the end they must have settled at the same time.
            since: As for `wait`.

        Raises:
            ServingError: UNAVAILABLE, one has not and the server is about to stop.
        """
        self._drop_settled(unsettled, since)
        if not unsettled:
            unsettled.extend(self._every_unsettled(names, since))
        if unsettled and self._let_go:
            raise ServingError(Code.UNAVAILABLE, "the server is stopping")
        return bool(unsettled)

    def _drop_settled(self, unsettled: list[str], since: int) -> None:
        while unsettled and self._models.settled(unsettled[-1], since) is not None:
            unsettled.pop()

    def _every_unsettled(self, names: Collection[str], since: int) -> list[str]:
        return [name for name in names if self._models.settled(name, since) is None]

    def _settled(self, names: Collection[str], since: int) -> Settled:
        return {name: self._models.settled(name, since) for name in names}

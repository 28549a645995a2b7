"""Waits until models have settled: each has a version that is available, or one that has failed to load."""

from collections.abc import Callable, Collection
from itertools import chain

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.models.versions import Models, VersionStatus

Settled = dict[str, VersionStatus | None]


class Settling:
    """Lets callers wait for models. A caller is woken by each change of the model that it waits for, and by `wake`.

    Args:
        models: The server's models; `wait` names those to wait for.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._let_go = False

    def let_go(self) -> None:
        """Ends all waits, now and later, because the server is about to stop."""
        with self._models.changed:
            self._let_go = True
            self._models.news.notify_all()

    def wake(self) -> None:
        """Makes those who wait check again whether to give up. Any thread."""
        with self._models.changed:
            self._models.news.notify_all()

    def wait(self, names: Collection[str], since: int, given_up: Callable[[], bool]) -> Settled:
        """Waits until each model has settled, and returns the highest version of each that is available or has failed.

        A version whose load is under way is waited for in any case.

        Args:
            names: The models' names.
            since: Failures before this event do not count.
            given_up: Whether to stop waiting for a model without any version, which gets None; asked again at each
                `wake`.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        with self._models.changed:
            unsettled = list(names)
            while self._some_unsettled(unsettled, names, since):
                awaited = unsettled[-1]
                if given_up():
                    # The awaited model is probably still loading; all models are checked only if it is not.
                    on_their_way = (name for name in chain((awaited,), names) if self._is_on_its_way(name, since))
                    if (on_its_way := next(on_their_way, None)) is None:
                        break
                    awaited = on_its_way
                self._wait_for(awaited)
            return {name: self._models.settled(name, since) for name in names}

    def wait_withdrawn(self, name: str, *, ended: bool) -> None:
        """Waits until no version of a model can be called or is being loaded; with `ended`, until all have ended.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        with self._models.changed:
            while not self._models.is_withdrawn(name, ended=ended):
                if self._let_go:
                    raise ServingError(Code.UNAVAILABLE, "the server is stopping")
                self._wait_for(name)

    def _wait_for(self, name: str) -> None:
        """Waits for a change of a model, or for `wake`."""
        self._models.awaited[name] += 1
        try:
            self._models.news.wait()
        finally:
            self._models.awaited[name] -= 1

    def _some_unsettled(self, unsettled: list[str], names: Collection[str], since: int) -> bool:
        """Whether a model has not settled, without checking every model at each change.

        Args:
            unsettled: The models that had not settled at the last check; settled ones are removed from the end.
            names: The names of all models, since in the end they must all be settled at the same time.
            since: As for `wait`.

        Raises:
            ServingError: UNAVAILABLE if a model has not settled, and the server is about to stop.
        """
        self._drop_settled(unsettled, since)
        if not unsettled:
            unsettled.extend(name for name in names if self._models.settled(name, since) is None)
        if unsettled and self._let_go:
            raise ServingError(Code.UNAVAILABLE, "the server is stopping")
        return bool(unsettled)

    def _is_on_its_way(self, name: str, since: int) -> bool:
        """Whether a model has not settled, but will without further requests."""
        return self._models.settled(name, since) is None and self._models.is_on_its_way(name)

    def _drop_settled(self, unsettled: list[str], since: int) -> None:
        while unsettled and self._models.settled(unsettled[-1], since) is not None:
            unsettled.pop()

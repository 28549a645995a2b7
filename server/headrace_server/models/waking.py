"""Calls that wait until the version that they name is in memory."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from headrace_protos import Code
from headrace_server.errors import NotInMemory, ServingError, not_found, status_of
from headrace_server.models.versions import Models, VersionStatus

T = TypeVar("T")

Waited = Callable[[str, int, float], None]
"""Called for a call that has waited, with the model's name, the version, and the number of seconds."""


class Waking:
    """Loads versions for the calls that wait for them. In an event loop.

    Args:
        models: All models.
        waited: Called for each call that has waited.
    """

    def __init__(self, models: Models, waited: Waited = lambda _name, _version, _seconds: None) -> None:
        self._models = models
        self._waited = waited

    async def until_found(self, find: Callable[[], T], asleep: NotInMemory, deadline: float | None) -> T:
        """Waits until the missing version is in memory, calls `find` again, and returns its result.

        The version stays in memory until `find` has been called again, so that two calls cannot evict each other's
        version forever.

        Args:
            find: Returns what the caller needs; raises `NotInMemory` as long as a version must be waited for.
            asleep: The exception that `find` has raised.
            deadline: When to give up, on the monotonic clock; None means never.

        Raises:
            ServingError: DEADLINE_EXCEEDED; NOT_FOUND if the version cannot be loaded; or what `find` raises.
        """
        while True:
            name, version, began = asleep.name, asleep.version, time.monotonic()
            self._claim(name, version, 1)
            try:
                await self._load(name, version, deadline)
                self._waited(name, version, time.monotonic() - began)
                return find()
            except NotInMemory as error:
                asleep = error
            finally:
                self._claim(name, version, -1)

    async def _load(self, name: str, version: int, deadline: float | None) -> None:
        with self._models.changed:
            awaited = asyncio.wrap_future(self._models.by_name[name].await_load(version))
            self._models.changed.notify_all()
        try:
            async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
                status = await awaited
        except TimeoutError:
            text = f"model {name} version {version} was not loaded in time for the call"
            raise ServingError(Code.DEADLINE_EXCEEDED, text) from None
        if status.error is not None:
            raise _unloadable(name, status)

    def _claim(self, name: str, version: int, count: int) -> None:
        with self._models.changed:
            claims = self._models.by_name[name].claims
            claims[version] += count
            if not claims[version]:
                del claims[version]
                self._models.changed.notify_all()


def _unloadable(name: str, status: VersionStatus) -> ServingError:
    assert status.error is not None
    code, text = status_of(status.error)
    if code == Code.RESOURCE_EXHAUSTED:
        return ServingError(code, text)
    return not_found(f"Servable not found for request: Specific({name}, {status.version}): it cannot be loaded: {text}")

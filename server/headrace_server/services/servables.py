"""Where a service finds the servable that a request names."""

from typing import Protocol

from headrace_server.models.servable import Servable
from headrace_server.models.versions import VersionStatus


class Servables(Protocol):
    """What a service asks of the manager."""

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """A version, leased: it stays loaded until the end of the `with` block that it is to be used in.

        Args:
            name: The model's.
            version: Which one, by number or by label; None for the highest that is ready.

        Raises:
            ServingError: There is none.
        """

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """As `servable`, after a wait for a version that is not in memory.

        Args:
            name: The model's.
            version: Which one, by number or by label; None for the highest that can be called.
            deadline: When to give up, on the monotonic clock; None for never.

        Raises:
            ServingError: There is none, or it could not be loaded in time.
        """


class Repository(Servables, Protocol):
    """What a service asks of the manager that tells of every version, not of those alone that can be called."""

    def names(self) -> list[str]:
        """Every model that there ever was."""

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that there ever was, the highest first; empty for a model never seen."""


class OneServable:
    """One servable, whatever is asked for: how a service answers with a version that is not served yet.

    Args:
        servable: Loaded for longer than this is used.
    """

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """It, leased."""
        del name, version
        self._servable.lease()
        return self._servable

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """It, leased."""
        del deadline
        return self.servable(name, version)

"""How a service finds the servable that a request names."""

from typing import Protocol

from headrace_server.models.servable import Servable
from headrace_server.models.versions import VersionStatus


class Servables(Protocol):
    """The part of the manager that a service needs."""

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """Leases a version: it stays loaded until the end of the `with` block.

        Args:
            name: The model's name.
            version: The version's number or label; None for the highest that is ready.

        Raises:
            ServingError: There is no such version.
        """

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """Like `servable`, but first waits for a version that is not in memory.

        Args:
            name: The model's name.
            version: The version's number or label; None for the highest that can be called.
            deadline: When to give up, on the monotonic clock; None means never.

        Raises:
            ServingError: There is no such version, or it could not be loaded in time.
        """


class Repository(Servables, Protocol):
    """The part of the manager that a service needs to report every version, not only those that can be called."""

    def names(self) -> list[str]:
        """Every model that ever existed."""

    def statuses(self, name: str) -> list[VersionStatus]:
        """Every version of a model that ever existed, the highest first; empty for an unknown model."""


class OneServable:
    """Always finds the same servable, so that a service can answer for a version that is not served yet.

    Args:
        servable: The servable, which outlives this object.
    """

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def servable(self, name: str, version: int | str | None = None) -> Servable:
        """Leases the servable and returns it; the arguments make no difference."""
        del name, version
        self._servable.lease()
        return self._servable

    async def lease(self, name: str, version: int | str | None = None, deadline: float | None = None) -> Servable:
        """Leases the servable and returns it, without waiting; the arguments make no difference."""
        del deadline
        return self.servable(name, version)

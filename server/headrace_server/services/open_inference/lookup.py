"""Finds the servable that a request names. Codes and texts: Triton's common.cc and model_lifecycle.cc."""

import re

from headrace_protos import Code
from headrace_server.errors import ServingError, invalid, not_found
from headrace_server.models.servable import Servable
from headrace_server.services.servables import Repository

_NUMBER = re.compile(r"\s*[+-]?[0-9]+", re.ASCII)
_LONGEST = 100  # the maximum number of characters: Python's int() refuses very long numbers
_INT64 = range(-(1 << 63), 1 << 63)


class Lookup:
    """Finds servables by names and versions as this protocol writes them.

    Args:
        models: Finds servables and knows every version.
    """

    def __init__(self, models: Repository) -> None:
        self._models = models

    async def lease(self, name: str, version: str = "", label: str = "", *, deadline: float | None = None) -> Servable:
        """Leases a version: it stays loaded until the end of the `with` block.

        Args:
            name: The model's name.
            version: A number; empty for the highest version that can be called.
            label: A version label instead.
            deadline: When to stop waiting for a version that is not in memory; None means never.

        Raises:
            ServingError: There is no such version.
        """
        number = _asked(version, label)
        try:
            return await self._models.lease(name, number, deadline)
        except ServingError as error:
            raise self._refusal(error, name, version, number) from error

    def check_ready(self, name: str, version: str = "") -> None:
        """Refuses a version that cannot be called.

        Raises:
            ServingError: As for `lease`.
        """
        if self.is_ready(name, version):
            return
        number = version_number(version)
        try:
            with self._models.servable(name, number):
                pass
        except ServingError as error:
            raise self._refusal(error, name, version, number) from error

    def is_ready(self, name: str, version: str = "") -> bool:
        """Whether a version, or any if none is named, can be called.

        Raises:
            ServingError: INVALID_ARGUMENT if the version is not a number.
        """
        ready = self.ready_versions(name)
        number = version_number(version)
        return bool(ready) if number is None else number in ready

    def ready_versions(self, name: str) -> list[int]:
        """The versions of a model that can be called, ascending."""
        return sorted(status.version for status in self._models.statuses(name) if status.state.can_be_called)

    def _refusal(self, error: ServingError, name: str, version: str, number: int | str | None) -> ServingError:
        """The error of a call that finds no version, with this protocol's text."""
        if error.code != Code.NOT_FOUND:
            return error
        return self._absent(name, version, number)

    def _absent(self, name: str, version: str, number: int | str | None) -> ServingError:
        statuses = self._models.statuses(name)
        begin = f"Request for unknown model: '{name}'"
        if not statuses:
            return not_found(f"{begin} is not found")
        if number is None or isinstance(number, str):
            return not_found(f"{begin} has no available versions")
        if number not in {status.version for status in statuses}:
            return not_found(f"{begin} version {version.strip()} is not found")
        return ServingError(Code.UNAVAILABLE, f"{begin} version {version.strip()} is not at ready state")


def _asked(version: str, label: str) -> int | str | None:
    if label and version:
        raise invalid(f"a request names a version or a label, not both: '{version}' and '{label}'")
    return label or version_number(version)


def version_number(version: str) -> int | None:
    """The number written in a version; None for empty text, which lets the server choose.

    Raises:
        ServingError: INVALID_ARGUMENT. Triton accepts text after the number; this does not.
    """
    if not version:
        return None
    if not _NUMBER.fullmatch(version) or len(version) > _LONGEST or int(version) not in _INT64:
        raise invalid(
            f"failed to get model version from specified version string '{version}' (details: stol), "
            "version should be an integral value > 0"
        )
    if int(version) < 0:
        raise invalid(f"invalid model version specified '{version}' , version should be an integral value > 0")
    return int(version)

"""A fast check whether a backend has one of the optional abilities that `backends/base.py` declares."""

from functools import cache
from typing import Any, Protocol


class Ability(type(Protocol)):  # type: ignore[misc]  # its class has no public name
    """The metaclass of protocols whose members are listed only once, which makes `isinstance` fast.

    Python 3.11 lists the members at every check, and later versions look up each one in every class; for a small model,
    the checks took a tenth of the time of a load.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        """Whether an object has all members of the protocol; properties of its class are not evaluated."""
        kind = type(instance)
        return all(hasattr(kind, name) or hasattr(instance, name) for name in _members(cls))


@cache
def _members(protocol: type) -> tuple[str, ...]:
    named = {**vars(protocol), **vars(protocol).get("__annotations__", {})}
    return tuple(name for name in named if not name.startswith("_"))

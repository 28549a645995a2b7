"""Objects that several loaded models share; each lives as long as one of them uses it."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class Shared:
    """A cache of objects, by their sources. It drops an object that is no longer used. Any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._objects: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def __reduce__(self) -> tuple[type["Shared"], tuple[()]]:
        return Shared, ()  # another process gets an empty one

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The object for a key: the existing one, or else a new one.

        Args:
            key: A key that is equal for equal objects; its first part should name their kind.
            make: Creates the object. Two threads that ask at the same time may both create one, but both get the same.
        """
        with self._lock:
            known: T | None = self._objects.get(key)
        if known is not None:
            return known
        made = make()
        with self._lock:
            kept: T = self._objects.setdefault(key, made)
            return kept

"""Small arrays in shared memory that are used again and again: creating one takes longer than filling it."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from sys import getrefcount
from threading import Lock
from typing import Any

import numpy as np

from headrace_batching.task import Array

MOST_BYTES = 32 << 10
"""The size in bytes of the largest array that is kept for reuse."""

BLOCK_BYTES = 128 << 10
"""The size in bytes of a block, which many arrays share, because each block takes two file descriptors."""

ALIGNMENT = 64

MOST = 64
"""The maximum number of arrays that are kept; if there is one more, all are dropped."""


def _alone() -> int:
    array = np.empty(0)
    return getrefcount(array)


ALONE = _alone()
"""The value of `getrefcount` for an array that only the caller's variable refers to."""


@dataclass(slots=True, eq=False)
class Site:
    """An array that is kept for reuse.

    Attributes:
        array: The array. It is free if nothing else refers to it.
        placed: The array's location, once that is known.
    """

    array: Array
    placed: Any = None


class Sites:
    """Hands out small arrays, and keeps them for reuse. Any thread.

    Args:
        create: Creates an array of a shape and a dtype: a block, or an array that is not kept.
    """

    def __init__(self, create: Callable[[tuple[int, ...], np.dtype[Any]], Array]) -> None:
        self._create = create
        self._lock = Lock()
        self._block: Array | None = None
        self._filled = 0
        self._sites: dict[tuple[tuple[int, ...], np.dtype[Any]], list[Site]] = {}
        self._by_id: dict[int, Site] = {}

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with any elements, which is free again once nothing refers to it or a view of it."""
        with self._lock:
            for site in self._sites.get((shape, dtype), ()):
                array = site.array
                if getrefcount(array) <= ALONE + 1:  # only the variable and the site refer to it
                    return array
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if not _is_kept(size, dtype):
            return self._create(shape, dtype)
        with self._lock:
            return self._new(shape, dtype, size).array

    def copy(self, array: Array) -> Site | None:
        """Copies an array; returns the site of the copy, which the caller holds; None if such arrays are not kept."""
        shape, dtype = array.shape, array.dtype
        with self._lock:
            for site in self._sites.get((shape, dtype), ()):
                own = site.array
                if getrefcount(own) <= ALONE + 1:
                    break
            else:
                if not _is_kept(array.nbytes, dtype):
                    return None
                site = self._new(shape, dtype, array.nbytes)
                own = site.array
        own[...] = array
        return site

    def of(self, array: Array) -> Site | None:
        """The site of an array; None if it has none, such as a view."""
        return self._by_id.get(id(array))

    def forget(self, array: Array) -> None:
        """Removes an array, so that it is never handed out again."""
        with self._lock:
            site = self._by_id.pop(id(array), None)
            if site is not None:
                self._sites[array.shape, array.dtype].remove(site)

    def clear(self) -> None:
        """Forgets all arrays."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._sites.clear()
        self._by_id.clear()
        self._block = None

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> Site:
        if len(self._by_id) >= MOST:
            self._clear()
        start = -(-self._filled // ALIGNMENT) * ALIGNMENT
        if self._block is None or start + size > BLOCK_BYTES:
            block = self._create((BLOCK_BYTES,), np.dtype(np.uint8))
            self._block, start = block.view(_Block).view(_Shared), 0
        self._filled = start + size
        array: Array = np.ndarray(shape, dtype, self._block, start)
        site = self._by_id[id(array)] = Site(array)
        self._sites.setdefault((shape, dtype), []).append(site)
        return site


def _is_kept(size: int, dtype: np.dtype[Any]) -> bool:
    return 0 < size <= MOST_BYTES and not dtype.hasobject


class _Block(np.ndarray[Any, Any]):
    """A block.

    numpy lets a view refer to the base of its base if both have the same type. Because blocks and `_Shared` are two
    types, a view refers to its block, and arrays made from the view refer to the view.
    """


class _Shared(np.ndarray[Any, Any]):
    """A view of a block; the arrays made from it refer to it."""

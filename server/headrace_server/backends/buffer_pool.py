"""A pool of memory that is expensive to allocate: an array uses it until its last view is gone, then another array."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import prod
from threading import RLock
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.errors import ServingError

LIMIT = 1 << 30
"""The number of bytes above which a pool frees idle blocks before it allocates more."""

_SMALLEST = 4096

Block = Array  # of bytes


def block_size(size: int) -> int:
    """The size of the block for `size` bytes: up to a quarter larger, so that there are few sizes."""
    step = max(_SMALLEST, 1 << max(0, (size - 1).bit_length() - 3))
    return -(-size // step) * step


class BufferPool:
    """A pool of blocks of memory of one kind. Any thread.

    A block belongs to an array until the array and all views of it are gone: for an input, until its batch has run, and
    for an output, until it has been encoded. The block then serves a later array; the block that was used most recently
    is taken first.

    Args:
        allocate: Allocates a block of this many bytes; raises ServingError, RESOURCE_EXHAUSTED, if there is no memory.
        free: Frees a block. Both functions are called on any thread. `free` is called on the thread that happens to
            drop an array.
        limit: The number of bytes above which idle blocks are freed before more is allocated.
    """

    def __init__(self, allocate: Callable[[int], Block], free: Callable[[Block], None], limit: int = LIMIT) -> None:
        self._allocate = allocate
        self._free = free
        self._limit = limit
        # A block may return at any point, even on the thread that holds the lock: the lock is reentrant, and returning
        # a block does not take it.
        self._idle: dict[int, deque[Block]] = {}
        self._lock = RLock()
        self._held = 0
        self._closed = False

    @property
    def held(self) -> int:
        """The number of bytes allocated and not freed, in use or idle."""
        return self._held

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with uninitialised elements. Strings, and arrays without elements, use ordinary memory.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left, or UNAVAILABLE if the pool has been closed.
        """
        dtype = np.dtype(dtype)
        size = prod(shape) * dtype.itemsize
        if not size or dtype.hasobject:
            return np.empty(shape, dtype)
        block = self._take(block_size(size))
        lease = Lease(shape, dtype, block.view(_Bytes))
        lease.block, lease.take_back = block, self.take_back
        return lease.view(np.ndarray)

    def owns(self, array: Array) -> bool:
        """Whether an array is a view of this pool's memory."""
        return self.block_of(array) is not None

    def block_of(self, array: Array) -> Block | None:
        """The block that an array is a view of; None if its memory does not belong to this pool."""
        lease = self.lease_of(array)
        return None if lease is None else lease.block

    def lease_of(self, array: Array) -> "Lease | None":
        """The array that `empty` made of the memory of this array; None if the memory does not belong to this pool.

        All views of the memory keep that array alive. When it ends, its block returns to the pool.
        """
        base: Any = array
        while isinstance(base, np.ndarray) and not isinstance(base, Lease):
            base = base.base
        return base if isinstance(base, Lease) and base.take_back == self.take_back else None

    def take_back(self, block: Block) -> None:
        """Returns a block that arrays no longer use."""
        self._idle.setdefault(block.nbytes, deque()).append(block)
        if self._closed:
            self.trim()

    def discard(self, block: Block) -> None:
        """Frees a block that arrays no longer use."""
        self._free(block)
        self._count(-block.nbytes)

    def trim(self) -> bool:
        """Frees idle blocks; returns whether there were any."""
        blocks = _drained(self._idle)
        for block in blocks:
            self.discard(block)
        return bool(blocks)

    def close(self) -> None:
        """Frees idle blocks now, and blocks in use as soon as they return."""
        self._closed = True
        self.trim()

    def _take(self, size: int) -> Block:
        if self._closed:
            raise ServingError(Code.UNAVAILABLE, "the model has been unloaded")
        try:
            return self._idle[size].pop()
        except (KeyError, IndexError):
            return self._new(size)

    def _new(self, size: int) -> Block:
        if self._held + size > self._limit:
            self.trim()
        try:
            block = self._allocate(size)
        except ServingError:
            if not self.trim():
                raise
            block = self._allocate(size)
        self._count(size)
        return block

    def _count(self, size: int) -> None:
        with self._lock:
            self._held += size


class _Bytes(np.ndarray[Any, Any]):
    """A block. If it were a plain array, numpy would make the block the base of a lease's views, not the lease."""


class Lease(np.ndarray[Any, Any]):
    """The base of all arrays on a block; it is deleted together with the last of them. No other code sees it."""

    block: Block
    take_back: Callable[[Block], None]

    def __del__(self) -> None:
        self.take_back(self.block)


def _drained(idle: dict[int, deque[Block]]) -> list[Block]:
    """Removes every block, each once, even if several threads do so."""
    blocks = []
    for waiting in list(idle.values()):
        with suppress(IndexError):
            while True:
                blocks.append(waiting.pop())
    return blocks

"""Arrays in memory that two processes share: one side owns the blocks, the other uses them in place."""

import mmap
import os
import pickle
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.buffer_pool import BufferPool
from headrace_server.errors import ServingError
from headrace_server.processes.sites import Site, Sites

NOWHERE = 0
"""The block number of arrays without elements, which have no block."""


class Placed(NamedTuple):
    """The location of an array.

    Attributes:
        alias: The alias of the input or output that the array belongs to.
        block: The number of the array's block.
        offset: The number of bytes from the block's beginning.
        size: The array's size in bytes.
        dtype: A text that numpy understands, or the dtype itself if numpy has no text for it; "O" for strings.
        shape: The array's shape.
    """

    alias: str
    block: int
    offset: int
    size: int
    dtype: Any
    shape: tuple[int, ...]

    @property
    def is_copied(self) -> bool:
        """Whether the other side copies the array: strings, and arrays without elements."""
        return self.block == NOWHERE or self.dtype == "O"


class OwnedMemory:
    """The side that allocates. Its blocks are anonymous files, which the other side maps as well.

    Any thread. Memory is reused once no array on it is held here, so an array must be held as long as the other side
    uses it.

    Attributes:
        freed: The number of blocks that existed and no longer do.
    """

    def __init__(self) -> None:
        self._pool = _Pool(self._allocate, self._free)
        self._sites = Sites(self._pool.empty)
        self._descriptors: dict[int, int] = {}
        self._next = count(NOWHERE + 1)
        self.freed = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with any elements, as for `BufferPool.empty`."""
        return self._sites.empty(shape, dtype)

    def place(self, arrays: Arrays) -> tuple[tuple[Placed, ...], list[Array]]:
        """Copies arrays that are in other memory; returns each array's location, and the arrays that keep it in use.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        locations, held = [], []
        for alias, array in arrays.items():
            site = self._sites.of(array) or self._sites.copy(array)
            if site is None:
                placed, holding = self._place_other(alias, array)
            else:
                placed, holding = site.placed, site.array
                if placed is None or placed.alias != alias:
                    placed = self._place_site(alias, site)
            locations.append(placed)
            held.append(holding)
        return tuple(locations), held

    def descriptor(self, number: int) -> int:
        """The descriptor of the file of a block that is in use."""
        return self._descriptors[number]

    def abandon(self, arrays: Sequence[Array]) -> None:
        """Ensures that the memory of arrays is never reused, because the other side has kept it."""
        for array in arrays:
            self._sites.forget(array)
            block = self._pool.block_of(array)
            if isinstance(block, _Block):
                block.abandoned = True

    def has(self, number: int) -> bool:
        """Whether a block still exists."""
        return number in self._descriptors

    def close(self) -> None:
        """Frees idle memory now, and the rest once it is no longer in use."""
        self._sites.clear()
        self._pool.close()

    def _place_site(self, alias: str, site: Site) -> Placed:
        if site.placed is None:
            site.placed, _ = self._place_other(alias, site.array)
        elif site.placed.alias != alias:
            site.placed = site.placed._replace(alias=alias)
        located: Placed = site.placed
        return located

    def _place_other(self, alias: str, array: Array) -> tuple[Placed, Array]:
        if array.dtype.hasobject:
            texts = np.frombuffer(pickle.dumps(array.ravel().tolist()), np.uint8)
            (placed,), (held,) = self.place({alias: texts})
            return placed._replace(dtype="O", shape=array.shape), held
        dtype = array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype
        if not array.size:
            return Placed(alias, NOWHERE, 0, 0, dtype, array.shape), array
        lease = self._pool.lease_of(array) if array.flags.c_contiguous else None
        if lease is None or not isinstance(lease.block, _Block):
            copy = self._pool.empty(array.shape, array.dtype)
            copy[...] = array
            return self._place_other(alias, copy)
        offset = 0 if array.nbytes == lease.nbytes else _address(array) - _address(lease)
        return Placed(alias, lease.block.number, offset, array.nbytes, dtype, array.shape), array

    def _allocate(self, size: int) -> "_Block":
        descriptor = os.memfd_create("headrace-arrays")
        try:
            os.posix_fallocate(descriptor, 0, size)  # otherwise a lack of memory would end the process later
            block = _Block(size, np.uint8, mmap.mmap(descriptor, size))
        except OSError as error:
            os.close(descriptor)
            raise ServingError(Code.RESOURCE_EXHAUSTED, f"no shared memory of {size} bytes is left") from error
        block.number, block.abandoned = next(self._next), False
        self._descriptors[block.number] = descriptor
        return block

    def _free(self, block: Array) -> None:
        assert isinstance(block, _Block)
        os.close(self._descriptors.pop(block.number))
        self.freed += 1


class MappedMemory:
    """The side that uses blocks of the other side. One thread at a time."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}

    def add(self, number: int, descriptor: int) -> None:
        """Maps a block, and closes the descriptor."""
        try:
            self._maps[number] = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forgets blocks that the other side has freed."""
        for number in numbers:
            self._maps.pop(number, None)

    def array(self, placed: Placed) -> Array:
        """The writable array at a location; it lives as long as a view of it. Strings are copied."""
        if placed.block == NOWHERE:
            return np.empty(placed.shape, placed.dtype)
        if placed.dtype == "O":
            return _texts(self._maps[placed.block][placed.offset : placed.offset + placed.size], placed.shape)
        return np.ndarray(placed.shape, placed.dtype, self._maps[placed.block], placed.offset)


class _Block(np.ndarray[Any, Any]):
    """The bytes of a file in memory.

    Attributes:
        number: The file's number on the other side.
        abandoned: Whether the other side has kept the file.
    """

    number: int
    abandoned: bool


class _Pool(BufferPool):
    """A pool that never frees some of its blocks."""

    def take_back(self, block: Array) -> None:
        """As in the base class; an abandoned block is freed here, and stays where the other side has mapped it."""
        if isinstance(block, _Block) and block.abandoned:
            self.discard(block)
        else:
            super().take_back(block)


def _texts(data: bytes, shape: tuple[int, ...]) -> Array:
    texts = np.empty(len(items := pickle.loads(data)), object)
    texts[:] = items
    return texts.reshape(shape)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address

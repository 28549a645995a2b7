"""Arrays in memory that two processes share: one side owns the blocks, the other one uses them where they lie."""

import mmap
import os
import pickle
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.buffer_pool import BufferPool
from headrace_server.errors import ServingError

NOWHERE = 0
"""The number of no block: that of arrays without elements."""


class Placed(NamedTuple):
    """Where an array lies.

    Attributes:
        alias: The array's name.
        block: The number of its block.
        offset: Bytes from the block's beginning.
        size: Bytes that it takes there.
        dtype: A text that numpy reads, or the dtype itself where numpy has no text for it; "O" for strings.
        shape: As it is.
    """

    alias: str
    block: int
    offset: int
    size: int
    dtype: Any
    shape: tuple[int, ...]


class OwnedMemory:
    """The side that allocates. Its blocks are files without a name, which the other side maps as well.

    Any thread, several at once. Memory is used again once nobody here holds an array on it, so an array has to be held
    for as long as the other side uses it.

    Attributes:
        freed: Blocks that there were and are no more.
    """

    def __init__(self) -> None:
        self._pool = _Pool(self._allocate, self._free)
        self._descriptors: dict[int, int] = {}
        self._next = count(NOWHERE + 1)
        self.freed = 0

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array whose elements are not set; as `BufferPool.empty`."""
        return self._pool.empty(shape, dtype)

    def place(self, arrays: Arrays) -> tuple[list[Placed], list[Array]]:
        """Where arrays lie, each of those in other memory copied into a block; and what to hold while they are used.

        Raises:
            ServingError: RESOURCE_EXHAUSTED, there is no memory left.
        """
        both = [self._place(alias, array) for alias, array in arrays.items()]
        return [placed for placed, _ in both], [held for _, held in both]

    def descriptor(self, number: int) -> int:
        """The file of a block that is in use."""
        return self._descriptors[number]

    def abandon(self, arrays: Sequence[Array]) -> None:
        """Never uses the memory of arrays again, since the other side has kept it."""
        for block in map(self._pool.block_of, arrays):
            if isinstance(block, _Block):
                block.abandoned = True

    def has(self, number: int) -> bool:
        """Whether a block is still there."""
        return number in self._descriptors

    def close(self) -> None:
        """Frees what is idle now, and the rest once nobody holds it."""
        self._pool.close()

    def _place(self, alias: str, array: Array) -> tuple[Placed, Array]:
        if array.dtype.hasobject:
            texts = np.frombuffer(pickle.dumps(array.ravel().tolist()), np.uint8)
            placed, held = self._place(alias, texts)
            return placed._replace(dtype="O", shape=array.shape), held
        dtype = array.dtype.str if array.dtype.isbuiltin == 1 else array.dtype
        if not array.size:
            return Placed(alias, NOWHERE, 0, 0, dtype, array.shape), array
        lease = self._pool.lease_of(array) if array.flags.c_contiguous else None
        if lease is None or not isinstance(lease.block, _Block):
            copy = self._pool.empty(array.shape, array.dtype)
            copy[...] = array
            return self._place(alias, copy)
        offset = 0 if array.nbytes == lease.nbytes else _address(array) - _address(lease)
        return Placed(alias, lease.block.number, offset, array.nbytes, dtype, array.shape), array

    def _allocate(self, size: int) -> "_Block":
        descriptor = os.memfd_create("headrace-arrays")
        try:
            os.posix_fallocate(descriptor, 0, size)  # else a lack of memory would end the process, and later
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
    """The side that uses blocks of the other one. One thread at a time.

    Attributes:
        released: Numbers of arrays that nobody here uses any more, as they were given to `lend`. Whoever tells the
            other side takes them out.
    """

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self.released: deque[int] = deque()

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
        """The array that lies there, which may be written; it lives as long as a view of it. Strings are a copy."""
        if placed.block == NOWHERE:
            return np.empty(placed.shape, placed.dtype)
        if placed.dtype == "O":
            return _texts(self._maps[placed.block][placed.offset : placed.offset + placed.size], placed.shape)
        return np.ndarray(placed.shape, placed.dtype, self._maps[placed.block], placed.offset)

    def lend(self, placed: Placed, number: int) -> Array:
        """The array that lies there; once nobody uses it any more its number is in `released`."""
        if placed.block == NOWHERE or placed.dtype == "O":
            self.released.append(number)
            return self.array(placed)
        lent = _Lent(placed.shape, placed.dtype, self._maps[placed.block], placed.offset)
        lent.number, lent.released = number, self.released
        return lent.view(np.ndarray)


class _Block(np.ndarray[Any, Any]):
    """The bytes of a file in memory.

    Attributes:
        number: The file's, to the other side.
        abandoned: Whether the other side has kept it.
    """

    number: int
    abandoned: bool


class _Pool(BufferPool):
    """One that leaves some blocks alone."""

    def take_back(self, block: Array) -> None:
        """As the base class; an abandoned block is freed here, and stays where the other side has mapped it."""
        if isinstance(block, _Block) and block.abandoned:
            self.discard(block)
        else:
            super().take_back(block)


class _Lent(np.ndarray[Any, Any]):
    """The base of all arrays on memory of the other side, which goes when the last of them does."""

    number: int
    released: deque[int]

    def __del__(self) -> None:
        self.released.append(self.number)


def _texts(data: bytes, shape: tuple[int, ...]) -> Array:
    texts = np.empty(len(items := pickle.loads(data)), object)
    texts[:] = items
    return texts.reshape(shape)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address

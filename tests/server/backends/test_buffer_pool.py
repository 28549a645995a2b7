"""Blocks of memory: each is used by one array at a time, returns after the last view, and is freed in the end."""

from itertools import pairwise
from threading import Barrier, Thread

import ml_dtypes
import numpy as np
import pytest

from headrace_protos import Code
from headrace_server.backends.buffer_pool import Block, BufferPool, block_size
from headrace_server.errors import ServingError

FLOAT = np.dtype(np.float32)


class Memory:
    """Ordinary memory that records its live blocks."""

    def __init__(self, most: int = 1 << 40) -> None:
        self.blocks: list[Block] = []
        self.allocated = 0
        self._most = most

    def allocate(self, size: int) -> Block:
        if sum(block.nbytes for block in self.blocks) + size > self._most:
            raise ServingError(Code.RESOURCE_EXHAUSTED, "out of memory")
        block = np.full(size, 0xAA, np.uint8)
        self.blocks.append(block)
        self.allocated += 1
        return block

    def free(self, block: Block) -> None:
        index = next(i for i, own in enumerate(self.blocks) if own is block)
        del self.blocks[index]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def pool(memory: Memory) -> BufferPool:
    return BufferPool(memory.allocate, memory.free)


def test_sizes_are_few_and_waste_at_most_a_quarter() -> None:
    sizes = [block_size(size) for size in range(1, 1 << 20, 997)]

    assert all(size <= block < size * 1.25 + 4096 for size, block in zip(range(1, 1 << 20, 997), sizes, strict=True))
    assert all(low <= high for low, high in pairwise(sizes))
    assert len(set(sizes)) < 40


@pytest.mark.parametrize("dtype", [np.float32, np.int8, np.bool_, np.float64, ml_dtypes.bfloat16])
def test_an_array_has_the_requested_shape_and_dtype(pool: BufferPool, dtype: type) -> None:
    array = pool.empty((3, 5), np.dtype(dtype))
    array[...] = np.arange(15).reshape(3, 5).astype(dtype)

    assert (array.shape, array.dtype) == ((3, 5), np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.astype(np.float64).ravel().tolist() == np.arange(15).astype(dtype).astype(np.float64).tolist()


def test_a_block_serves_one_array_at_a_time(memory: Memory, pool: BufferPool) -> None:
    first, second = pool.empty((8,), FLOAT), pool.empty((8,), FLOAT)

    assert not np.shares_memory(first, second)
    assert memory.allocated == 2


def test_a_block_returns_when_its_last_view_is_gone(memory: Memory, pool: BufferPool) -> None:
    array = pool.empty((8, 2), FLOAT)
    array[...] = 1
    view = array[3:5].T[0]
    del array
    pool.empty((8, 2), FLOAT)[...] = 2
    assert view.tolist() == [1, 1]
    assert memory.allocated == 2

    del view
    again = [pool.empty((8, 2), FLOAT), pool.empty((8, 2), FLOAT)]

    assert memory.allocated == 2
    assert again


def test_the_pool_recognises_its_own_arrays(pool: BufferPool) -> None:
    other = BufferPool(lambda size: np.empty(size, np.uint8), lambda _: None)

    assert pool.owns(pool.empty((8, 2), FLOAT)[2:])
    assert not pool.owns(other.empty((8, 2), FLOAT))
    assert not pool.owns(np.zeros(4))
    assert not pool.owns(np.frombuffer(b"1234", np.uint8))


def test_empty_arrays_and_strings_are_ordinary_memory(memory: Memory, pool: BufferPool) -> None:
    assert pool.empty((0, 4), FLOAT).shape == (0, 4)
    assert pool.empty((2,), np.dtype(object)).shape == (2,)
    assert memory.allocated == 0


def test_closing_frees_idle_blocks_and_later_the_returned_ones(memory: Memory, pool: BufferPool) -> None:
    used = pool.empty((8,), FLOAT)
    pool.empty((8,), FLOAT)
    pool.close()
    assert len(memory.blocks) == 1
    used[...] = 3  # the array still owns its block

    del used

    assert (memory.blocks, pool.held) == ([], 0)
    with pytest.raises(ServingError, match="unloaded") as raised:
        pool.empty((8,), FLOAT)
    assert raised.value.code == Code.UNAVAILABLE


def test_idle_blocks_make_room_for_one_that_is_larger(memory: Memory) -> None:
    pool = BufferPool(memory.allocate, memory.free, limit=20_000)
    pool.empty((8192,), np.dtype(np.uint8))
    pool.empty((16384,), np.dtype(np.uint8))

    assert [block.nbytes for block in memory.blocks] == [16384]
    assert pool.held == 16384


def test_idle_blocks_are_freed_before_a_lack_of_memory_is_reported() -> None:
    memory = Memory(most=16384)
    pool = BufferPool(memory.allocate, memory.free)
    pool.empty((8192,), np.dtype(np.uint8))
    used = pool.empty((16384,), np.dtype(np.uint8))

    with pytest.raises(ServingError) as raised:
        pool.empty((16384,), np.dtype(np.uint8))
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert used.nbytes == 16384


def test_threads_never_share_a_block(memory: Memory, pool: BufferPool) -> None:
    together, wrong = Barrier(4), []

    def use(mark: int) -> None:
        together.wait()
        for _ in range(500):
            array = pool.empty((64,), FLOAT)
            array[...] = mark
            if not (array == mark).all():
                wrong.append(mark)
            del array

    threads = [Thread(target=use, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert memory.allocated <= 4
    pool.close()
    assert not memory.blocks

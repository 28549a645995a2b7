"""The link between the server and a worker process, with both sides in one process."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from headrace_server.processes.links import Link, create_link, open_link

native = pytest.importorskip("headrace_native")

Both = tuple[Link, Link]


@pytest.fixture
def both() -> Iterator[Both]:
    server, descriptor = create_link()
    worker = open_link(descriptor)
    yield server, worker
    server.end()


def test_messages_cross_both_ways(both: Both) -> None:
    server, worker = both
    for size in (0, 1, 100, native.Link.ROOM):
        assert server.send(b"?" * size)
        assert not server.all_taken
        assert worker.receive() == b"?" * size
        assert server.all_taken
        assert worker.send(b"!" * size)
        assert server.receive(0.0) == b"!" * size


def test_messages_sent_in_another_way_keep_their_turn(both: Both) -> None:
    server, worker = both
    assert not server.send(b"?" * (native.Link.ROOM + 1))
    server.send_elsewhere()
    assert not server.send(b"later")
    server.send_elsewhere()
    assert [worker.receive(), worker.receive()] == [None, None]
    assert server.send(b"again")
    assert worker.receive() == b"again"


def test_a_receiver_waits_no_longer_than_its_timeout(both: Both) -> None:
    with pytest.raises(TimeoutError):
        both[0].receive(0.001)


@pytest.mark.parametrize("ender", [0, 1])
@pytest.mark.parametrize("waiter", [0, 1])
def test_the_end_wakes_waiting_threads(both: Both, ender: int, waiter: int) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(both[waiter].receive)
        both[ender].end()
        with pytest.raises(ConnectionResetError):
            waiting.result()


def test_messages_sent_before_the_end_are_received(both: Both) -> None:
    server, worker = both
    assert worker.send(b"last")
    server.end()
    assert server.receive() == b"last"
    with pytest.raises(ConnectionResetError):
        server.receive()


def test_a_waiting_thread_does_not_hold_the_interpreter_lock(both: Both) -> None:
    server, worker = both

    def answer() -> None:
        for _ in range(2000):
            assert worker.send(worker.receive() or b"")

    thread = threading.Thread(target=answer)
    thread.start()
    for number in range(2000):
        message = number.to_bytes(8, "little")
        assert server.send(message)
        assert server.receive() == message
    thread.join()


def test_the_memory_of_a_link_cannot_be_truncated() -> None:
    """A worker process has a descriptor of the memory. By truncating it, it would end the server by SIGBUS."""
    _, descriptor = create_link()
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    open_link(descriptor)


def test_no_descriptor_is_left_open() -> None:
    before = len(os.listdir("/proc/self/fd"))
    _, descriptor = create_link()
    open_link(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)

"""Large bodies: received and parsed in parallel with other calls, within bounds, and dropped when callers leave."""

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Rest
from tests.support import models
from tests.support.rest_calls import PREFIX, ROW, TEN, RestCaller, received
from tests.support.running import eventually

ROWS = 200_000


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, enable_batching=False)


@pytest.fixture(scope="module")
def large() -> bytes:
    return json.dumps({"instances": [[1, 2, 3, 4.5]] * ROWS}).encode()


def head(size: int, more: str = "") -> bytes:
    return f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n{more}\r\n".encode()


@contextmanager
def another(caller: RestCaller) -> Iterator[RestCaller]:
    with closing(RestCaller(caller.port)) as other:
        yield other


def test_the_connection_goes_on(linear: RestCaller, large: bytes) -> None:
    for body, answer in [(large, [[10.5]] * ROWS), (ROW, [[10]]), (large, [[10.5]] * ROWS)]:
        assert linear.predict(body) == {"predictions": answer}
        assert linear.connection.sock is not None


def test_many_rows_share_batches(resting: Rest) -> None:
    caller = resting(models.wide)
    body = json.dumps({"instances": [[0.5] * 64] * 1000}).encode()
    assert len(body) > 128 << 10
    answers = [caller.post("predict", body).text for _ in range(3)]
    assert len(json.loads(answers[0])["predictions"]) == 1000
    assert len(set(answers)) == 1


def test_a_client_that_expects_100_continue_gets_it(linear: RestCaller, large: bytes) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(head(len(large), "Expect: 100-continue\r\nConnection: close\r\n"))
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(large)
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_caller_who_stalls_delays_nobody(linear: RestCaller, large: bytes) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection, another(linear) as other:
        connection.sendall(head(len(large), "Connection: close\r\n") + large[:-1])
        assert other.post("predict", large).status == 200
        connection.sendall(large[-1:])
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_the_body_of_a_caller_who_leaves_is_dropped(
    linear: RestCaller, large: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    linear.post("predict", large)
    before = open_files()
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(head(len(large)) + large[: len(large) // 2])
        assert eventually(lambda: open_files() > before)
    assert eventually(lambda: open_files() <= before)
    assert linear.predict(ROW) == TEN
    assert not caplog.records


def test_memory_is_freed(linear: RestCaller, large: bytes) -> None:
    """Eight bodies leave little more memory in use than the first two."""
    for _ in range(2):
        linear.post("predict", large)
    before = resident()
    for _ in range(8):
        linear.post("predict", large)
    assert resident() < before + 6 * len(large)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_large_bodies_are_read_at_a_lower_priority(linear: RestCaller, transport: str, large: bytes) -> None:
    if transport != "native":
        pytest.skip("Python has a process for them")
    linear.predict(large)
    readers = [task for task in Path("/proc/self/task").iterdir() if (task / "comm").read_text().startswith("expander")]
    assert readers
    lower = min(os.getpriority(os.PRIO_PROCESS, os.getpid()) + 10, 19)
    assert {os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in readers} == {lower}


def test_a_body_for_which_there_is_no_file(linear: RestCaller, large: bytes) -> None:
    """The server, which runs in this process, may open no more files."""
    body = large[:-1] + b', "unknown": 1}'  # not plain, so that Python reads it
    assert len(linear.predict(body)["predictions"]) == ROWS
    assert linear.connection.sock is not None
    os.close(free := os.dup(0))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        status, text = linear.refusal(body)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert status == 503
    assert text.endswith("Too many open files")
    with another(linear) as other:
        assert other.predict(ROW) == {"predictions": [[10]]}

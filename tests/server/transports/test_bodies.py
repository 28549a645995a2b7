"""Large bodies: taken in beside the server, whose interpreter sees none of their bytes."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from headrace_server.transports.asgi import BESIDE_BYTES
from headrace_server.transports.body_child import LOOK_AFTER, Neighbours
from headrace_server.transports.uvicorn_impl import _Protocol
from tests import models
from tests.conftest import Rest
from tests.rest_calls import PREFIX, RestCaller, received
from tests.running import eventually

ROW = {"instances": [[1, 2, 3, 4]]}
TEN = {"predictions": [[10]]}
ROWS = 300_000


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, enable_batching=False)


@pytest.fixture(scope="module")
def large() -> bytes:
    body = json.dumps({"instances": [[1, 2, 3, 4.5]] * ROWS}).encode()
    assert len(body) > 4 * BESIDE_BYTES
    return body


def head(size: int, more: str = "") -> bytes:
    return f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n{more}\r\n".encode()


@contextmanager
def another(caller: RestCaller) -> Iterator[RestCaller]:
    with closing(RestCaller(caller.port)) as other:
        yield other


def test_the_server_sees_few_of_its_bytes(linear: RestCaller, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, on_body = [], _Protocol.on_body

    def look(protocol: _Protocol, body: bytes) -> None:
        seen.append(len(body))
        on_body(protocol, body)

    monkeypatch.setattr(_Protocol, "on_body", look)
    assert linear.predict(large) == {"predictions": [[10.5]] * ROWS}
    assert 0 < sum(seen) <= len(large) - BESIDE_BYTES


def test_the_connection_goes_on(linear: RestCaller, large: bytes) -> None:
    for body, answer in [(large, [[10.5]] * ROWS), (ROW, [[10]]), (large, [[10.5]] * ROWS)]:
        assert linear.predict(body) == {"predictions": answer}
        assert linear.connection.sock is not None


def test_who_asks_before_sending_is_told_to(linear: RestCaller, large: bytes) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(head(len(large), "Expect: 100-continue\r\nConnection: close\r\n"))
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(large)
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_caller_who_stalls_holds_nobody_up(linear: RestCaller, large: bytes) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection, another(linear) as other:
        connection.sendall(head(len(large), "Connection: close\r\n") + large[:-1])
        assert other.post("predict", large).status == 200
        connection.sendall(large[-1:])
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_a_caller_who_leaves_is_forgotten(linear: RestCaller, large: bytes, caplog: pytest.LogCaptureFixture) -> None:
    linear.post("predict", large)
    before = files()
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(head(len(large)) + large[: len(large) // 2])
        assert eventually(lambda: files() > before)
    assert eventually(lambda: files() <= before)
    assert linear.predict(ROW) == TEN
    assert not caplog.records


def test_a_killed_process_is_replaced(linear: RestCaller, large: bytes) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection, another(linear) as other:
        assert other.post("predict", large).status == 200
        before = files()
        connection.sendall(head(len(large)) + large[: len(large) // 2])
        assert eventually(lambda: files() > before)
        for process in children():
            os.kill(process, signal.SIGKILL)
        text = received(connection)
        assert text.startswith(b"HTTP/1.1 503 ")
        assert b"the process for large bodies failed: " in text
        assert other.post("predict", large).status == 200


def files() -> int:
    """Those that this process and the one that takes bodies in have open."""
    return sum(len(os.listdir(f"/proc/{process}/fd")) for process in (os.getpid(), *children()))


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    every = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in every if b"body_child" in Path(f"/proc/{child}/cmdline").read_bytes()]


class Threads:
    """A process of two threads, one of which has waited so many seconds."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "task" / "1" / "schedstat"
        for thread in ("1", "2"):
            (folder / "task" / thread).mkdir(parents=True)
            (folder / "task" / thread / "schedstat").write_text("5000000000 1000000000 7\n")
        self.now = 100.0
        self.neighbours = Neighbours(folder, lambda: self.now)

    def after(self, seconds: float, waited: float) -> bool:
        self.now += seconds
        before = int(self._file.read_text().split()[1])
        self._file.write_text(f"5000000000 {before + round(waited * 1e9)} 8\n")
        return self.neighbours.wait()


def test_threads_that_wait_for_a_core(tmp_path: Path) -> None:
    threads = Threads(tmp_path)
    assert not threads.after(0, 0)
    assert not threads.after(LOOK_AFTER, 0.05 * LOOK_AFTER)
    assert threads.after(LOOK_AFTER, 0.5 * LOOK_AFTER)
    assert threads.after(LOOK_AFTER / 2, 0)  # it has not looked again
    assert not threads.after(LOOK_AFTER, 0)


def test_where_nobody_can_tell_they_may_wait(tmp_path: Path) -> None:
    assert Neighbours(tmp_path).wait()

"""Large bodies: taken in beside the server, whose interpreter sees none of their bytes."""

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

import pytest

from headrace_server.processes import memory_file
from headrace_server.processes.bodies import BodyProcess
from headrace_server.processes.bodies_child import ASKED, AT_ONCE, LOOK_AFTER, PAUSE, TOLD, Bodies, Ended, Neighbours
from headrace_server.transports.http.asgi import BESIDE_BYTES
from headrace_server.transports.http.uvicorn_impl import _Protocol
from tests import models
from tests.conftest import Rest
from tests.rest_calls import PREFIX, ROW, TEN, RestCaller, children, received
from tests.running import eventually

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
        before = own_files()
        connection.sendall(head(len(large), "Connection: close\r\n") + large[:-1])
        assert other.post("predict", large).status == 200
        assert own_files() <= before + 4  # two connections, the body that is not whole, and a process for bodies
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
        for process in children("bodies_child"):
            os.kill(process, signal.SIGKILL)
        text = received(connection)
        assert text.startswith(b"HTTP/1.1 503 ")
        assert b"the process for large bodies failed: " in text
        assert other.post("predict", large).status == 200


def test_no_descriptor_is_left(linear: RestCaller, large: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("headrace_server.transports.http.uvicorn_impl.os.dup", none)
        with socket.create_connection(("127.0.0.1", linear.port)) as connection:
            connection.sendall(head(len(large)) + large[: len(large) // 2])
            text = received(connection)
    assert text.startswith(b"HTTP/1.1 503 ")
    assert b"a large body cannot be taken in: [Errno 24] Too many open files" in text
    assert linear.post("predict", large).status == 200


def test_more_bodies_at_once_than_the_socket_holds() -> None:
    """The process is held up meanwhile, so that they must wait to be told of."""

    async def burst() -> list[bool]:
        bodies = BodyProcess()
        process = await bodies._up()
        process.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        os.kill(process._process.pid, signal.SIGSTOP)
        pairs = [socket.socketpair() for _ in range(40)]
        files = [memory_file.create() for _ in pairs]
        tasks = [
            asyncio.create_task(bodies.receive(os.dup(far.fileno()), file, 0, 3))
            for (_, far), file in zip(pairs, files, strict=True)
        ]
        for near, _ in pairs:
            near.send(b"abc")
        await asyncio.sleep(0)
        os.kill(process._process.pid, signal.SIGCONT)
        whole = await asyncio.gather(*tasks)
        assert [os.pread(file, 9, 0) for file in files] == [b"abc"] * len(files)
        for file in files:
            os.close(file)
        for end in chain.from_iterable(pairs):
            end.close()
        bodies.close()
        return whole

    assert asyncio.run(burst()) == [True] * 40


def test_rests_are_for_bytes_and_not_for_reads(tmp_path: Path) -> None:
    rests: list[float] = []
    server, far_server = socket.socketpair(type=socket.SOCK_SEQPACKET)
    near, far = socket.socketpair()
    with server, far_server, near:
        bodies = Bodies(server, Neighbours(tmp_path), rests.append)
        file = memory_file.create()
        socket.send_fds(far_server, [ASKED.pack(7, 0, 2 * AT_ONCE)], [far.fileno(), file])
        far.close()
        bodies.turn()
        for _ in range(2 * AT_ONCE // 4096):
            near.sendall(bytes(4096))
            bodies.turn()
        assert TOLD.unpack(far_server.recv(TOLD.size)) == (7, Ended.WHOLE)
        assert os.fstat(file).st_size == 2 * AT_ONCE
        os.close(file)
    assert rests == [PAUSE, PAUSE]


def files() -> int:
    """Those that this process and the one that takes bodies in have open."""
    return own_files() + sum(len(os.listdir(f"/proc/{process}/fd")) for process in children("bodies_child"))


def own_files() -> int:
    return len(os.listdir("/proc/self/fd"))


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

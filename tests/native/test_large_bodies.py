"""Calls that arrive while other connections of the same thread send large bodies without a pause.

A model keeps the thread busy until the kernel holds megabytes of each body. The thread then reads them without ever
having to wait for a client, so only a pause lets it handle a call that has arrived on another connection.
"""

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from headrace_batching import bridge
from headrace_batching.task import Arrays
from headrace_server.backends.onnx.backend import OnnxBackend
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, floats, predict_request
from tests.support.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    call,
    frame,
    head,
)
from tests.support.ports import free_port
from tests.support.running import eventually

pytest.importorskip("headrace_native")

LARGE = 3_900_000
"""The size of a body in bytes. A stream may send this much before the server widens its window."""

PART = 100_000
SENDERS = 4
TABLES = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]

Body = Callable[[int], bytes]


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


def http_body(_: int) -> bytes:
    """A POST with a large body."""
    return b"POST /v1/models/none:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % LARGE + bytes(LARGE)


def grpc_message(number: int) -> bytes:
    """A call with a large message; `number` is that of the body on its connection."""
    stream = 2 * number + 1
    begun = frame(HEADERS, END_HEADERS, stream, head()) + frame(DATA, 0, stream, b"\0" + struct.pack(">I", LARGE))
    parts = frame(DATA, 0, stream, bytes(PART)) * (LARGE // PART)
    return begun + parts + frame(DATA, END_STREAM, stream)


def grpc_calls(number: int) -> bytes:
    """Many calls, together as large as one body."""
    count = LARGE // PART
    return b"".join(call(2 * (number * count + each) + 1, bytes(PART)) for each in range(count))


@pytest.mark.skipif(not TABLES[0].exists(), reason="asks Linux how many bytes have not been read")
@pytest.mark.parametrize("body", [http_body, grpc_message, grpc_calls])
def test_a_call_runs_before_everything_that_other_connections_have_sent_is_read(
    running: Run, monkeypatch: pytest.MonkeyPatch, body: Body
) -> None:
    go_on, held, run = threading.Event(), threading.Event(), OnnxBackend.run
    go_on.set()
    senders, runs = list[socket.socket](), list[tuple[bool, int]]()

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        on_connection_thread = not threading.current_thread().name.startswith(("batch-", "load-"))
        runs.append((on_connection_thread, unread(senders)))
        if on_connection_thread:
            held.set()
            assert go_on.wait(ANSWER_WITHIN)
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", seen)
    pace = replace(bridge.SHARED.pace, quick=100.0, slow=100.0)  # the thread still runs calls itself after the slow one
    monkeypatch.setattr(bridge, "SHARED", replace(bridge.SHARED, pace=pace))
    rest_port = free_port()
    server = running(models.linear, rest_api_port=rest_port, transport_threads=1)
    x = {"x": floats([1, 2, 3, 4])}
    request = call(1, predict_request(x).SerializeToString())

    def ran_on_connection_thread() -> bool:
        """Makes the call once. On a busy machine, a batch thread sometimes takes it, and runs it at any later time."""
        held.clear()
        eventually(lambda: server.caller.predict(x) and held.is_set())
        with ExitStack() as stack:
            senders.clear()
            first, other = (stack.enter_context(Connection(server.port)) for _ in range(2))
            for _ in range(SENDERS):
                port = rest_port if body is http_body else server.port
                sender = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN)
                senders.append(stack.enter_context(sender))
                prepare(sender, body)
            held.clear()
            go_on.clear()
            first.say(request)
            assert held.wait(ANSWER_WITHIN)
            for sender in senders:
                fill(sender, body(2))
            other.say(request)
            go_on.set()
            assert first.next(DATA).stream == other.next(DATA).stream == 1
        return runs[-1][0]

    eventually(ran_on_connection_thread)
    assert runs[-1][1] > 0


def prepare(sender: socket.socket, body: Body) -> None:
    """Sends two bodies, after which the kernel holds more bytes for this connection."""
    if body is not http_body:
        sender.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
        heard = b""
        while frame(WINDOW_UPDATE, 0, 0, bytes(4))[:-4] not in heard:
            part = sender.recv(1 << 16)
            assert part
            heard += part
    for number in range(2):
        sender.sendall(body(number))
        assert sender.recv(1 << 16)
        eventually(lambda: not unread([sender]))


def fill(sender: socket.socket, data: bytes) -> None:
    """Sends as much as the kernel takes."""
    rest = memoryview(data)
    sender.setblocking(False)
    with suppress(BlockingIOError):
        while rest:
            rest = rest[sender.send(rest) :]


def unread(senders: Sequence[socket.socket]) -> int:
    """The number of bytes that the connections have sent and the server has not read."""
    ways = {(sender.getsockname()[1], sender.getpeername()[1]) for sender in senders}
    total = 0
    for here, there, to_send, to_read in queues():
        total += to_send * ((here, there) in ways) + to_read * ((there, here) in ways)
    return total


def queues() -> Iterator[tuple[int, int, int, int]]:
    """The ports of each connection, and the numbers of bytes that wait to be sent and to be read."""
    for table in TABLES:
        for line in table.read_text().splitlines()[1:]:
            _, here, there, _, waiting, *_ = line.split()
            to_send, to_read = waiting.split(":")
            yield int(here[-4:], 16), int(there[-4:], 16), int(to_send, 16), int(to_read, 16)

"""HTTP/1.1 connections with plain calls, which the native transport answers itself, and other calls between them."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Rest, Serve
from tests.support import models
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX, ROW, TEN, RestCaller
from tests.support.running import eventually

BODY = json.dumps(ROW).encode()
PLAIN = b"POST %b:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (PREFIX.encode(), len(BODY), BODY)
STATUS = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % PREFIX.encode()
CHUNKED = b"POST %b:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (
    PREFIX.encode(),
    len(BODY),
    BODY,
)
BAD = PLAIN.replace(BODY, b"?" * len(BODY))
LAST = PLAIN.replace(b"Host: a", b"Host: a\r\nConnection: close")

HEAD_BEGUN = 20  # bytes

Send = Callable[..., list[tuple[int, object]]]


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, enable_batching=False)


@pytest.fixture
def send(linear: RestCaller) -> Send:
    """Sends pieces over a connection, which the last request closes; returns the status and value of each answer."""

    def send(*pieces: bytes) -> list[tuple[int, object]]:
        with socket.create_connection(("127.0.0.1", linear.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
            return _answers(b"".join(iter(lambda: connection.recv(65536), b"")))

    return send


def _answers(received: bytes) -> list[tuple[int, object]]:
    answers = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        size = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        answers.append((int(head.split()[1]), json.loads(rest[:size])))
        received = rest[size:]
    return answers


def _kind(answer: tuple[int, object]) -> object:
    status, value = answer
    return "ten" if value == TEN else status


@pytest.mark.parametrize("other", [STATUS, CHUNKED, BAD], ids=["status", "chunked", "bad"])
def test_calls_of_all_kinds_are_answered_in_their_order(send: Send, other: bytes) -> None:
    expected = {STATUS: 200, CHUNKED: "ten", BAD: 400}[other]
    answers = send(PLAIN, PLAIN, other, PLAIN, other, LAST)
    assert [_kind(answer) for answer in answers] == ["ten", "ten", expected, "ten", expected, "ten"]


def test_pipelined_calls_are_answered_in_their_order(send: Send) -> None:
    answers = send(PLAIN * 100 + STATUS + PLAIN * 3 + LAST)
    assert [_kind(answer) for answer in answers] == ["ten"] * 100 + [200] + ["ten"] * 4


def test_a_call_may_come_byte_by_byte(send: Send) -> None:
    whole = PLAIN + LAST
    answers = send(*(whole[at : at + 1] for at in range(len(whole))))
    assert [_kind(answer) for answer in answers] == ["ten"] * 2


def test_a_body_larger_than_one_read(send: Send) -> None:
    rows = {"instances": [[1, 2, 3, 4.5]] * 3000}
    body = json.dumps(rows).encode()
    call = PLAIN.replace(BODY, body).replace(b"Length: %d" % len(BODY), b"Length: %d" % len(body))
    answers = send(PLAIN, call, call + PLAIN, LAST)
    assert [_kind(answer) for answer in answers] == ["ten", 200, 200, "ten", "ten"]
    assert answers[1] == answers[2] == (200, {"predictions": [[10.5]] * 3000})


def test_other_clients_are_answered_when_one_leaves(linear: RestCaller) -> None:
    for end in (1, 20, len(PLAIN) - len(BODY), len(PLAIN) - 1, len(PLAIN)):
        with socket.create_connection(("127.0.0.1", linear.port), timeout=30) as connection:
            connection.sendall(PLAIN[:end])
        assert linear.predict(ROW) == TEN


@pytest.mark.parametrize("call", [PLAIN, CHUNKED], ids=["plain", "chunked"])
@pytest.mark.parametrize("begun", [HEAD_BEGUN, -1], ids=["head", "body"])
def test_a_call_that_has_begun_when_the_server_stops_is_answered(
    serving: Serve, transport: str, tmp_path: Path, call: bytes, begun: int
) -> None:
    if begun == HEAD_BEGUN and transport != "native":
        pytest.skip("uvicorn answers only requests whose heads it has read")
    models.linear(tmp_path / "1")
    port = free_port()
    process = serving(tmp_path, f"--rest_api_port={port}")
    process.wait_for(re.compile(rf"Exporting HTTP/REST API at:localhost:{port} \.\.\."))
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(PLAIN + call[:begun])
        first = connection.recv(65536)
        process.terminate()
        eventually(lambda: _refuses(port))
        connection.sendall(call[begun:])
        answers = _answers(first + b"".join(iter(lambda: connection.recv(65536), b"")))
    assert [_kind(answer) for answer in answers] == ["ten", "ten"]
    assert process.ended() == 0
    assert not any("panicked" in line for line in process.log)


def _refuses(port: int) -> bool:
    """Whether nothing listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=30).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the socket was closed while this connection waited to be accepted
        return False
    return False


@pytest.mark.parametrize("first", ["length", "encoding"])
def test_nothing_follows_a_body_with_two_ends(send: Send, first: str) -> None:
    """A proxy may forward what follows the other end as a part of this body, or as another caller's request."""
    length, encoding = b"Content-Length: 5", b"Transfer-Encoding: chunked"
    both = (length, encoding) if first == "length" else (encoding, length)
    assert len(send(CHUNKED.replace(encoding, b"\r\n".join(both)) + LAST)) == 1

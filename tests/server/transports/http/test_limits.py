"""What the REST API's HTTP refuses: endless heads, and bodies whose announced length is too large."""

import json
import select
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.conftest import Rest
from tests.support import models
from tests.support.calls import ANSWER_WITHIN
from tests.support.frames import HEADERS, PREFACE, SETTINGS, frame, head
from tests.support.rest_calls import PREFIX, ROW, TEN, RestCaller, received
from tests.support.running import eventually


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear)


def send_until_refused(connection: socket.socket, start: bytes, what: bytes, most: int) -> None:
    connection.sendall(start)
    try:
        for _ in range(most // len(what)):
            connection.sendall(what)
    except (BrokenPipeError, ConnectionResetError):
        return
    raise AssertionError(f"{most} bytes were accepted")


CHUNKED = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
ENDLESS = {
    "header": (f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\nX: ".encode(), b"a"),
    "headers": (f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\n".encode(), b"X: a\r\n"),
    "path": (b"GET /", b"a"),
    "trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"a"),
    "chunk extension": (CHUNKED + b"2;a", b"a"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_head_is_not_read(linear: RestCaller, name: str) -> None:
    start, what = ENDLESS[name]
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        send_until_refused(connection, start, what * (65536 // len(what)), 64 << 20)
    assert linear.predict(ROW) == TEN


def test_a_head_that_is_too_large_is_refused(linear: RestCaller, transport: str) -> None:
    head = f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\nX: ".encode() + b"a" * ((512 << 10) + 1)
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(head)
        status = b"431" if transport == "native" else b"400"  # uvicorn has one text for everything that it refuses
        assert received(connection).startswith(b"HTTP/1.1 %s " % status)


def test_a_head_of_many_kilobytes(linear: RestCaller) -> None:
    assert linear.send("GET", PREFIX, headers={"X": "a" * 60_000}).status == 200


def test_a_client_that_announces_too_large_a_body_is_refused_before_it_sends(resting: Rest) -> None:
    caller = resting(models.linear, rest_api_max_body_mb=1)
    head = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {1 << 40}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", caller.port)) as connection:
        connection.sendall(head.encode())
        assert received(connection).startswith(b"HTTP/1.1 413 ")


def test_many_callers_of_many_rows_are_not_refused(resting: Rest) -> None:
    """If the operator has not bounded the queue, the memory for requests is the bound."""
    caller = resting(partial(models.slow, steps=500))
    body = json.dumps({"instances": [[number / 7] for number in range(256)]})

    def call_again_and_again() -> list[int]:
        own = RestCaller(caller.port)
        statuses = [own.post("predict", body).status for _ in range(4)]
        own.close()
        return statuses

    with ThreadPoolExecutor(64) as callers:
        answered = list(callers.map(lambda _: call_again_and_again(), range(64)))
    assert answered == [[200] * 4] * 64


STALL = 0.4


@pytest.fixture(scope="module")
def impatient(resting: Rest) -> RestCaller:
    return resting(models.linear, connection_stall_seconds=STALL)


HALF_BODIES = [
    f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{{",
    f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
    f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n",
]
HALF_HEADS = [
    f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nConte",
    f"GET {PREFIX} HTTP/1.1\r\n",
    "G",
    "P",
]
OPENED = PREFACE + frame(SETTINGS, 0, 0)
HALF_FRAMES = [PREFACE[:10], OPENED + frame(HEADERS, 0, 1, head()), OPENED + b"\0\0\x09\1"]


def assert_ended(port: int, begun: str) -> None:
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN) as connection:
        connection.sendall(begun.encode())
        received(connection)


class TestStalling:
    """A connection that stalls in the middle of a request is closed, and no other."""

    @pytest.mark.parametrize("begun", HALF_BODIES)
    def test_half_a_body_is_not_waited_for(self, impatient: RestCaller, begun: str) -> None:
        assert_ended(impatient.port, begun)
        assert impatient.predict(ROW) == TEN

    @pytest.mark.parametrize("begun", HALF_HEADS)
    def test_half_a_head_is_not_waited_for(self, impatient: RestCaller, begun: str) -> None:
        assert_ended(impatient.port, begun)
        assert impatient.predict(ROW) == TEN

    @pytest.mark.parametrize("begun", HALF_HEADS)
    def test_half_a_head_after_a_request_is_not_waited_for(self, impatient: RestCaller, begun: str) -> None:
        whole = f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\n\r\n"
        with socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as connection:
            connection.sendall(whole.encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            connection.sendall(begun.encode())
            received(connection)

    @pytest.mark.parametrize("begun", HALF_FRAMES)
    def test_half_a_frame_is_not_waited_for(self, impatient: RestCaller, transport: str, begun: bytes) -> None:
        if transport != "native":
            pytest.skip("it speaks HTTP/1.1 only")
        with socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as connection:
            connection.sendall(begun)
            received(connection)

    def test_a_body_that_arrives_byte_by_byte_is_answered(self, impatient: RestCaller) -> None:
        body = json.dumps(ROW).encode()
        head = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"

        def is_answered() -> bool:
            with socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as connection:
                connection.sendall(head.encode())
                try:
                    for byte in range(len(body)):
                        connection.sendall(body[byte : byte + 1])
                        select.select([connection], [], [], STALL / 8)
                except ConnectionError:  # on a busy machine, this thread itself may have to wait for so long
                    return False
                return received(connection).startswith(b"HTTP/1.1 200 ")

        assert len(body) / 8 > 2  # each attempt takes longer than a stall
        assert eventually(is_answered)

    def test_an_idle_connection_is_not_closed(self, impatient: RestCaller) -> None:
        head = f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        with (
            socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as rests,
            socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as stalls,
        ):
            rests.sendall(head)
            assert rests.recv(65536).startswith(b"HTTP/1.1 200 ")
            stalls.sendall(HALF_BODIES[0].encode())
            received(stalls)  # until the server closes that connection
            rests.sendall(head)
            assert rests.recv(65536).startswith(b"HTTP/1.1 200 ")

"""How much memory bodies can occupy: one budget, and the same messages, with either implementation of HTTP."""

import json
import re
import socket
from collections.abc import Iterator

import pytest

from tests.conftest import Run
from tests.support import models
from tests.support.budget import TOO_MUCH
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX, ROW, TEN, RestCaller


@pytest.fixture
def rest(running: Run) -> Iterator[RestCaller]:
    port = free_port()
    running(models.linear, rest_api_port=port, request_memory_mb=1)
    caller = RestCaller(port)
    yield caller
    caller.close()


def test_a_body_larger_than_the_free_budget(rest: RestCaller) -> None:
    answer = rest.post("predict", json.dumps({"instances": [[0.5] * 4] * 60_000}))

    assert answer.status == 429
    assert re.match(TOO_MUCH, answer.error[1])
    rest.connection.close()
    assert rest.predict(ROW) == TEN


def test_halves_of_bodies_leave_room_for_others(rest: RestCaller) -> None:
    head = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 400000\r\n\r\n".encode()
    halves = [socket.create_connection(("127.0.0.1", rest.connection.port)) for _ in range(8)]
    try:
        for half in halves:
            half.sendall(head + b" " * 200_000)
        assert rest.predict(ROW) == TEN
    finally:
        for half in halves:
            half.close()

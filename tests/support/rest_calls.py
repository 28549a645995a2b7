"""Requests to the REST API: over http.client, on one kept-alive connection, or by the curl command."""

import json
import socket
import subprocess
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.calls import ANSWER_WITHIN, MODEL
from tests.support.tools import tool

PREFIX = f"/v1/models/{MODEL}"
"""The path of the served test model."""


ROW = {"instances": [[1, 2, 3, 4]]}
"""A body for `models.linear`."""

TEN = {"predictions": [[10]]}
"""The answer of `models.linear` to ROW."""


class Answer(NamedTuple):
    """An answer; header names are in lower case."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def value(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.text)

    @property
    def error(self) -> tuple[int, str]:
        """The status, and the text of a body that contains only an error."""
        assert list(self.value) == ["error"]
        return self.status, self.value["error"]


class RestCaller:
    """A connection to a server.

    Args:
        port: The port of its REST API.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.connection = HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN)

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Sends a request and reads the answer.

        Args:
            method: GET, or any other.
            path: The path, with the query.
            body: Bytes or a string to be sent as they are, or a value to be sent as JSON.
            headers: Headers in addition to http.client's own.
        """
        if not isinstance(body, bytes | str | None):
            body = json.dumps(body)
        self.connection.request(method, path, body, dict(headers or {}))
        response = self.connection.getresponse()
        text = response.read().decode(errors="surrogateescape")
        return Answer(response.status, text, {name.lower(): value for name, value in response.getheaders()})

    def get(self, path: str) -> Answer:
        """Sends a GET."""
        return self.send("GET", path)

    def post(self, verb: str, body: Any, prefix: str = PREFIX, **headers: str) -> Answer:
        """Posts a body to a model; `Content_Encoding="gzip"` is a header."""
        return self.send(
            "POST", f"{prefix}:{verb}", body, {key.replace("_", "-"): value for key, value in headers.items()}
        )

    def predict(self, body: Any) -> Any:
        """Posts a body to :predict, which must succeed; returns the value."""
        answer = self.post("predict", body)
        assert answer.status == 200, answer.text
        return answer.value

    def refusal(self, body: Any, verb: str = "predict") -> tuple[int, str]:
        """Posts a body that must be refused; returns the status and the text."""
        return self.post(verb, body).error

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()


def received(connection: socket.socket) -> bytes:
    """All bytes until the peer closes the connection, even if it has not read all data."""
    parts = b""
    try:
        while part := connection.recv(65536):
            parts += part
    except ConnectionResetError:
        pass
    return parts


def children(module: str) -> list[int]:
    """The child processes of this process that run a module, found by a part of the module's name."""
    tasks = Path("/proc/self/task").glob("*/children")
    every = [int(child) for task in tasks for child in task.read_text().split()]
    return [child for child in every if module.encode() in Path(f"/proc/{child}/cmdline").read_bytes()]


def curl(*arguments: str, data: bytes = b"") -> str:
    """The output of the curl command."""
    run = subprocess.run(
        [tool("curl"), "-sS", "-g", *arguments], input=data, capture_output=True, check=True, timeout=ANSWER_WITHIN
    )
    return run.stdout.decode()

"""The system refuses memory for what a request or an answer needs: only the call fails, and the server goes on."""

import json
import re
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPResponse
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.support import models
from tests.support.calls import ANSWER_WITHIN, MODEL, Caller, refusal_of
from tests.support.ports import free_port
from tests.support.running import ServerProcess

pytest.importorskip("headrace_native")

MB = 1 << 20
COLUMNS = 10_000
ROWS = 1_000
"""The number of rows of a large answer: 40 MB of floats, and from 50 to 230 MB as text."""

LIMITS = (5, 60, 130)
"""The numbers of megabytes that the server may allocate for a call: from too few for any step to nearly enough."""


class Served:
    """A server whose memory can be limited, and its clients.

    Args:
        base_path: The model's base path.
    """

    def __init__(self, base_path: Path) -> None:
        self._rest_port = free_port()
        self.server = ServerProcess(base_path, "--transport=native", f"--rest_api_port={self._rest_port}")
        self.caller: Caller = self.server.started()
        self.server.wait_for(re.compile("Exporting HTTP"))

    def limit(self, more: int) -> None:
        """Lets the server allocate this many bytes more than it has allocated now."""
        pid = self.server.process.pid
        (used,) = re.findall(r"VmData:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        resource.prlimit(pid, resource.RLIMIT_DATA, (int(used) * 1024 + more, resource.RLIM_INFINITY))

    def unlimit(self) -> None:
        """Ends the limit."""
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(self.server.process.pid, resource.RLIMIT_DATA, unlimited)

    def post(self, path: str, body: bytes, *, chunked: bool = False) -> tuple[str | None, str]:
        """Posts to the model; returns the error, if there is one, and the text of the answer."""
        length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
        head = b"POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % (path.encode(), length)
        with socket.create_connection(("127.0.0.1", self._rest_port), ANSWER_WITHIN) as connection:
            with suppress(BrokenPipeError):  # the server refuses a body before its end
                connection.sendall(head + (in_chunks(body) if chunked else body))
            answer = HTTPResponse(connection)
            answer.begin()
            text = answer.read().decode()
        return (None if answer.status == 200 else json.loads(text)["error"]), text

    def close(self) -> None:
        """Ends all."""
        self.caller.close()
        self.server.close()


def in_chunks(body: bytes) -> bytes:
    """A body in chunks of 1 MB."""
    parts = (body[start : start + MB] for start in range(0, len(body), MB))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def over_grpc(served: Served, rows: int) -> str | None:
    """Calls Predict; returns the error, or None if the answer is right."""
    try:
        outputs = served.caller.predict({"x": np.ones((rows, 1), np.float32)})
    except grpc.RpcError as error:
        return refusal_of(error).text
    assert outputs["y"].shape == (rows, COLUMNS)
    assert (outputs["y"] == 1).all()
    return None


def _posted(path: str, body: Callable[[int], object]) -> Callable[[Served, int], str | None]:
    def call(served: Served, rows: int) -> str | None:
        error, text = served.post(path, json.dumps(body(rows)).encode())
        assert error or text.count("1.0") == rows * COLUMNS
        return error

    return call


def _infer(rows: int) -> dict[str, object]:
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [rows, 1], "data": [1.0] * rows}]}


PREDICT = f"/v1/models/{MODEL}:predict"
CALLS = {
    "gRPC": over_grpc,
    "REST, columns": _posted(PREDICT, lambda rows: {"inputs": [[1.0]] * rows}),
    "REST, rows": _posted(PREDICT, lambda rows: {"instances": [[1.0]] * rows}),
    "infer": _posted(f"/v2/models/{MODEL}/infer", _infer),
    # An answer that Python writes, because the body has a member that it does not know.
    "infer, by Python": _posted(f"/v2/models/{MODEL}/infer", lambda rows: {**_infer(rows), "parameters": {"a": 1}}),
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    base_path = tmp_path_factory.mktemp("model")
    models.repeated(base_path / "1", columns=COLUMNS)
    with closing(Served(base_path)) as served:
        yield served


@pytest.mark.parametrize("name", CALLS)
def test_only_the_call_fails_whose_answer_needs_too_much(served: Served, name: str) -> None:
    call = CALLS[name]
    assert call(served, 1) is None
    errors = []
    for limit in LIMITS:
        served.limit(limit * MB)
        errors.append(call(served, ROWS))
        served.unlimit()
        assert call(served, 2) is None
    assert call(served, ROWS) is None
    assert errors[0] is not None
    assert all(error is None or re.search("memory|alloc", error) for error in errors)
    assert served.server.process.poll() is None


@pytest.mark.parametrize("chunked", [False, True])
def test_only_the_call_fails_whose_body_needs_too_much(tmp_path: Path, chunked: bool) -> None:
    models.row_sums(tmp_path / "1")
    body = b'{"inputs": [[%s1]]}' % (b"1," * (6 * MB))
    errors = []
    with closing(Served(tmp_path)) as served:
        for limit in LIMITS:
            served.limit(limit * MB)
            errors.append(served.post(PREDICT, body, chunked=chunked)[0])
            served.unlimit()
            assert served.caller.predict({"x": np.ones((1, 2), np.float32)})["y"] == [2]
    assert errors[0] is not None
    assert all(error is None or re.search("memory|alloc", error) for error in errors)

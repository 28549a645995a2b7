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

from headrace_protos import DataType, TensorProto
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, MODEL, PREDICT, Caller, Refusal, predict_request, refusal_of
from tests.support.ports import free_port
from tests.support.running import ServerProcess

pytest.importorskip("headrace_native")

MB = 1 << 20
COLUMNS = 10_000
ROWS = 1_000
"""The number of rows of a large answer: 40 MB of floats, and from 50 to 230 MB as text."""

LIMITS = (5, 60, 130)
"""The numbers of megabytes that the server may allocate for a call: from too few for any step to nearly enough."""

LACKS_MEMORY = re.compile("memory|alloc")
"""The words of an error about memory."""

INFERENCE = "/inference.GRPCInferenceService"


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


REST_PREDICT = f"/v1/models/{MODEL}:predict"
CALLS = {
    "gRPC": over_grpc,
    "REST, columns": _posted(REST_PREDICT, lambda rows: {"inputs": [[1.0]] * rows}),
    "REST, rows": _posted(REST_PREDICT, lambda rows: {"instances": [[1.0]] * rows}),
    "infer": _posted(f"/v2/models/{MODEL}/infer", _infer),
    # An answer that Python writes, because the body has a member that it does not know.
    "infer, by Python": _posted(f"/v2/models/{MODEL}/infer", lambda rows: {**_infer(rows), "parameters": {"a": 1}}),
}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """A server of its own for each test, since memory that earlier calls have freed would be enough for an answer."""
    models.repeated(tmp_path / "1", columns=COLUMNS)
    with closing(Served(tmp_path)) as served:
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
    assert all(error is None or LACKS_MEMORY.search(error) for error in errors)
    assert served.server.process.poll() is None


def infer_as_stream(served: Served, data: bytes) -> bytes | Refusal:
    """Sends a request as the only one of a stream; returns the bytes of the answer, or the error."""
    stub: grpc.StreamStreamMultiCallable[bytes, bytes] = served.caller.channel.stream_stream(
        f"{INFERENCE}/ModelStreamInfer"
    )
    try:
        (answer,) = list(stub(iter([data]), timeout=ANSWER_WITHIN))
    except grpc.RpcError as error:
        return refusal_of(error)
    return bytes(answer)


X = np.ones((1, 1), np.float32)
INFER = ModelInferRequest(
    model_name=MODEL,
    inputs=[ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 1])],
    raw_input_contents=[X.tobytes()],
).SerializeToString()
LARGE_MESSAGES: dict[str, tuple[bytes, Callable[[Served, bytes], bytes | Refusal]]] = {
    "Predict": (
        predict_request({"x": X}).SerializeToString(),
        lambda served, data: served.caller.send_bytes(PREDICT, data),
    ),
    "ModelInfer": (INFER, lambda served, data: served.caller.send_bytes(f"{INFERENCE}/ModelInfer", data)),
    "ModelStreamInfer": (INFER, infer_as_stream),
}
"""Small requests for messages that Python parses, and how they are sent."""


@pytest.mark.parametrize("name", LARGE_MESSAGES)
def test_only_the_call_fails_whose_message_python_cannot_get(served: Served, name: str) -> None:
    request, send = LARGE_MESSAGES[name]
    small, large = (request + unknown_field(length) for length in (1, 16 * MB))
    expected = send(served, small)
    assert isinstance(expected, bytes)
    refused = 0
    # The message arrives in pieces, and is copied for Python, into Python, and by its parser.
    for more in range(20, 100, 5):
        served.limit(more * MB)
        answer = send(served, large)
        served.unlimit()
        assert send(served, small) == expected
        if isinstance(answer, Refusal):
            assert answer.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert LACKS_MEMORY.search(answer.text)
            refused += 1
        else:
            assert answer == expected
    assert refused
    assert served.server.process.poll() is None


def unknown_field(length: int) -> bytes:
    """A field of this many bytes that no message has, so that Python parses the message."""
    return _varint(1000 << 3 | 2) + _varint(length) + bytes(length)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


INTEGERS = predict_request(
    {"x": TensorProto(dtype=DataType.DT_INT64, int64_val=np.arange(2_000_000) % 100)}
).SerializeToString()
"""A request that protobuf's parser makes eight times as large: each integer takes one byte here, and eight there."""


def test_only_the_call_fails_that_protobuf_cannot_parse(served: Served) -> None:
    codes = set()
    for more in range(4, 132, 8):
        served.limit(more * MB)
        refusal = served.caller.send_bytes(PREDICT, INTEGERS)
        served.unlimit()
        assert isinstance(refusal, Refusal)
        codes.add(refusal.code)
        assert over_grpc(served, 1) is None
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT}  # the model takes floats
    assert served.server.process.poll() is None


def test_only_the_call_fails_whose_answer_python_cannot_write(served: Served) -> None:
    def answer(rows: int) -> bytes | Refusal:
        request = predict_request({"x": np.ones((rows, 1), np.float32)})
        return served.caller.send_bytes(PREDICT, request.SerializeToString() + unknown_field(1))

    for more in range(5, 245, 20):
        served.limit(more * MB)
        large = answer(ROWS)
        served.unlimit()
        assert not isinstance(answer(1), Refusal)
        if isinstance(large, Refusal):
            assert LACKS_MEMORY.search(large.text)
            last = more
    assert last > 60  # the model's run is not all that was refused
    assert not isinstance(answer(ROWS), Refusal)
    assert served.server.process.poll() is None


@pytest.mark.parametrize("chunked", [False, True])
def test_only_the_call_fails_whose_body_needs_too_much(tmp_path: Path, chunked: bool) -> None:
    models.row_sums(tmp_path / "1")
    body = b'{"inputs": [[%s1]]}' % (b"1," * (6 * MB))
    errors = []
    with closing(Served(tmp_path)) as served:
        for limit in LIMITS:
            served.limit(limit * MB)
            errors.append(served.post(REST_PREDICT, body, chunked=chunked)[0])
            served.unlimit()
            assert served.caller.predict({"x": np.ones((1, 2), np.float32)})["y"] == [2]
    assert errors[0] is not None
    assert all(error is None or LACKS_MEMORY.search(error) for error in errors)


NUMBERS = 100_000
X_LARGE = b"[[%s1]]" % (b"1," * (NUMBERS - 1))
INFER_LARGE = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, %d], "data": %s}]}' % (NUMBERS, X_LARGE)


def compressed(served: Served) -> bytes | Refusal:
    """Sends a Predict whose message is compressed."""
    data = predict_request({"x": np.ones((1, NUMBERS), np.float32)}).SerializeToString()
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = served.caller.channel.unary_unary(PREDICT)
    return bytes(send(data, timeout=ANSWER_WITHIN, compression=grpc.Compression.Gzip))


@pytest.mark.parametrize(
    "call",
    [
        lambda served: served.post(REST_PREDICT, b'{"inputs": %s}' % X_LARGE),
        lambda served: served.post(REST_PREDICT, b'{"inputs": %s, "unknown": 1}' % X_LARGE),
        lambda served: served.post(f"/v2/models/{MODEL}/infer", INFER_LARGE),
        compressed,
    ],
    ids=["REST", "REST, by Python", "infer", "compressed"],
)
def test_a_request_that_is_read_on_another_thread_needs_no_new_one(
    tmp_path: Path, call: Callable[[Served], object]
) -> None:
    """Less memory is left than the stack of a thread needs."""
    models.row_sums(tmp_path / "1")
    with closing(Served(tmp_path)) as served:
        served.limit(3 * MB // 2)
        call(served)
        served.unlimit()
        call(served)
        assert not any("panicked" in line for line in served.server.log)

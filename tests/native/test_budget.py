"""How much memory clients can occupy in the native transport, and for how long: one budget, and no stalled clients."""

import gzip
import re
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import grpc
import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import DataType, PredictRequest, TensorProto
from tests.conftest import Run
from tests.support import models
from tests.support.budget import TOO_MUCH, held
from tests.support.calls import ANSWER_WITHIN, MODEL, PREDICT, floats, predict_request, refusal_of
from tests.support.frames import (
    ACK,
    DATA,
    END_HEADERS,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    call,
    frame,
    head,
)
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX
from tests.support.running import RunningServer, eventually

pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])
BUDGET_MB = 16
COLUMNS = 200_000
ANSWER = 4 * COLUMNS
WINDOW_OF_NOTHING = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def linear(running: Run) -> RunningServer:
    return running(models.linear, request_memory_mb=BUDGET_MB)


@pytest.fixture
def repeated(running: Run) -> Iterator[RunningServer]:
    """A server that answers a row of 4 bytes with 800 kB."""
    server = running(lambda folder: models.repeated(folder, columns=COLUMNS), request_memory_mb=BUDGET_MB)
    yield server
    server.close()


def limit(server: RunningServer) -> int:
    return int(re.findall(r":headrace:request_memory_limit_bytes{} (\d+)", server._server._metrics.page().decode())[0])


def agreed(client: Connection) -> None:
    """Exchanges settings; afterwards, the client may send megabytes before it reads."""
    client.next(SETTINGS)
    client.next(WINDOW_UPDATE)  # the connection's window update, which may arrive after the settings
    client.say(frame(SETTINGS, ACK, 0))


def large(mb: int) -> PredictRequest:
    request = PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["x"].CopyFrom(TensorProto(dtype=DataType.DT_FLOAT, tensor_content=bytes(mb << 20)))
    return request


def test_a_request_larger_than_a_connections_part_is_refused(linear: RunningServer) -> None:
    refusal = linear.caller.refusal(large(BUDGET_MB - 1))

    assert refusal.code is StatusCode.RESOURCE_EXHAUSTED
    assert re.fullmatch(TOO_MUCH, refusal.text)
    assert f" of {BUDGET_MB << 20} bytes" in refusal.text
    assert linear.caller.predict({"x": X})["y"].tolist() == [[10]]
    eventually(lambda: sum(held(linear).values()) == 0)


def test_unfinished_requests_of_one_connection_leave_room_for_others(linear: RunningServer) -> None:
    with Connection(linear.port) as greedy:
        agreed(greedy)
        for stream in range(1, 25, 2):  # fills the connection's window, even if the server does not read at once
            greedy.say(frame(HEADERS, END_HEADERS, stream, head()), frame(DATA, 0, stream, b"\0" + b"\x7f" * 4))
            greedy.say(*[frame(DATA, 0, stream, bytes(16384))] * 64)
        eventually(lambda: held(linear)["received"] > limit(linear) // 3)

        assert held(linear)["received"] <= limit(linear) // 2
        assert linear.caller.predict({"x": X})["y"].tolist() == [[10]]
    eventually(lambda: sum(held(linear).values()) == 0)


def test_calls_without_a_message_are_counted(linear: RunningServer) -> None:
    with Connection(linear.port) as quiet:
        for stream in range(1, 201, 2):
            quiet.say(frame(HEADERS, END_HEADERS, stream, head()))
        eventually(lambda: held(linear)["calls"] >= 100 * 2048)
    eventually(lambda: sum(held(linear).values()) == 0)


def test_the_calls_in_flight_of_a_connection_are_limited(linear: RunningServer) -> None:
    with Connection(linear.port) as client:
        settings = client.next(SETTINGS).payload
    known = dict(struct.unpack(">HI", settings[at : at + 6]) for at in range(0, len(settings), 6))

    assert known[MAX_CONCURRENT_STREAMS] == 1000


def test_answers_that_nobody_reads_stay_within_the_budget(repeated: RunningServer) -> None:
    request = predict_request({"x": np.ones((1, 1), np.float32)})
    small = request.SerializeToString()
    repeated.caller.call(
        predict_request({"x": np.ones((1, 1), np.float32)})
    )  # from now on, the server knows the size of an answer
    with Connection(repeated.port) as unread:
        unread.say(WINDOW_OF_NOTHING)
        unread.say(*[call(stream, small) for stream in range(1, 101, 2)])
        eventually(lambda: held(repeated)["answers"] > ANSWER)

        assert held(repeated)["answers"] <= limit(repeated) // 2
        assert repeated.caller.call(request) is not None
    eventually(lambda: sum(held(repeated).values()) == 0)


def test_the_buffer_that_a_large_body_leaves_to_the_next_one_is_counted_whole(running: Run) -> None:
    port, mb = free_port(), 1 << 20
    server = running(models.linear, rest_api_port=port, request_memory_mb=4 * BUDGET_MB, transport_threads=1)
    post = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * mb}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN) as client:
        client.sendall(post + b'{"instances": [[1, 2, 3, 4]]}'.ljust(2 * mb))
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        eventually(lambda: held(server)["received"] == 0)
        client.sendall(post + bytes(mb))

        eventually(lambda: held(server)["received"] == 2 * mb)
    eventually(lambda: held(server)["received"] == 0)


class TestCompressed:
    def test_a_decompression_bomb_is_expanded_only_up_to_the_limit(self, running: Run) -> None:
        server = running(models.linear, request_expanded_mb=1)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", compression=grpc.Compression.Gzip) as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
            with pytest.raises(grpc.RpcError) as raised:
                call(large(64).SerializeToString(), timeout=ANSWER_WITHIN)

        assert refusal_of(raised.value) == (
            StatusCode.RESOURCE_EXHAUSTED,
            "SERVER: Received message larger than max (more than 1048576 vs. 1048576)",
        )
        assert server.caller.predict({"x": X})["y"].tolist() == [[10]]

    def test_an_honest_message_does_not_wait_behind_decompression_bombs(self, running: Run) -> None:
        server = running(models.linear)
        bomb = gzip.compress(bytes(200 << 20), 9)
        message = b"\1" + struct.pack(">I", len(bomb)) + bomb
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", compression=grpc.Compression.Gzip) as channel:
            honest: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
            request = predict_request({"x": np.random.default_rng(0).random((30, 4), np.float32)}).SerializeToString()
            honest(request, timeout=ANSWER_WITHIN)
            bombers = [Connection(server.port) for _ in range(4)]
            for bomber in bombers:
                agreed(bomber)
                bomber.say(frame(HEADERS, END_HEADERS, 1, head(grpc_encoding="gzip")))
                bomber.say(*[frame(DATA, 0, 1, message[at : at + 16384]) for at in range(0, len(message), 16384)])
            eventually(lambda: held(server)["expanded"] > 0)
            honest(request, timeout=ANSWER_WITHIN)

            assert held(server)["expanded"] < 4 * (200 << 20)
            for bomber in bombers:
                bomber.__exit__()


@pytest.fixture(scope="module")
def impatient(running: Run) -> RunningServer:
    return running(models.linear, connection_stall_seconds=0.3)


def assert_broken(client: socket.socket) -> None:
    """Reads until the server ends the connection."""
    with suppress(ConnectionResetError):
        while client.recv(65536):
            pass


HALF_FRAMES = [b"\0\0\x09\1", frame(HEADERS, END_HEADERS, 1, head())[:20], frame(HEADERS, 0, 1, head())]


class TestStalls:
    def test_half_a_message(self, impatient: RunningServer) -> None:
        with Connection(impatient.port) as client:
            client.say(frame(HEADERS, END_HEADERS, 1, head()), frame(DATA, 0, 1, b"\0\0\0\0\x09abc"))
            list(client.hear())

    @pytest.mark.parametrize("begun", HALF_FRAMES)
    def test_half_a_frame(self, impatient: RunningServer, begun: bytes) -> None:
        with Connection(impatient.port) as client:
            client.say(begun)
            list(client.hear())

    @pytest.mark.parametrize("begun", [b"", PREFACE[:3]])
    def test_half_a_handshake(self, impatient: RunningServer, begun: bytes) -> None:
        with socket.create_connection(("127.0.0.1", impatient.port), ANSWER_WITHIN) as client:
            client.sendall(begun)
            assert_broken(client)

    def test_no_message_at_all(self, impatient: RunningServer) -> None:
        with Connection(impatient.port) as client:
            client.say(frame(HEADERS, END_HEADERS, 1, head()))
            list(client.hear())

    def test_an_answer_that_is_not_read(self, impatient: RunningServer) -> None:
        with Connection(impatient.port) as client:
            client.say(WINDOW_OF_NOTHING, call(1, predict_request({"x": X}).SerializeToString()))
            list(client.hear())

    def test_an_idle_connection_is_not_closed(self, impatient: RunningServer) -> None:
        with Connection(impatient.port) as rests, Connection(impatient.port) as stalls:
            stalls.say(frame(HEADERS, END_HEADERS, 1, head()))
            list(stalls.hear())  # until the server closes that connection
            rests.say(frame(PING, 0, 0, b"x" * 8))
            assert rests.next(PING, 1).payload == b"x" * 8

    def test_a_slow_model_is_not_a_stall(self, running: Run) -> None:
        server = running(models.counting, connection_stall_seconds=0.05)
        assert server.caller.call(predict_request({"steps": np.array([500_000])})) is not None

    def test_half_a_body(self, running: Run) -> None:
        port = free_port()
        running(models.linear, rest_api_port=port, connection_stall_seconds=0.3)
        with socket.create_connection(("127.0.0.1", port), ANSWER_WITHIN) as client:
            client.sendall(f"POST {PREFIX}:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
            assert_broken(client)

"""Hostile clients of the native transport: they are refused, and no other client notices."""

import gzip
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import grpc
import numpy as np
import pytest

from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, floats, predict_request, refusal_of
from tests.support.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    head,
)
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture
def linear(running: Run) -> RunningServer:
    return running(models.linear, grpc_channel_arguments="grpc.max_receive_message_length=100000")


def say(server: RunningServer, data: bytes) -> None:
    """Sends some bytes, and reads until the server closes the connection or has been silent for a while."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.3) as connection:
        connection.sendall(data)
        with suppress(TimeoutError, ConnectionResetError):
            while connection.recv(65536):
                pass


def call(*frames: bytes, **more: str) -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, head(**more)) + b"".join(frames)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        PREFACE + b"\xff" * 1000,
        PREFACE + frame(SETTINGS, 0, 0, b"\xff" * 5),
        PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50),
        PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 2, head()),
        PREFACE + frame(SETTINGS, 0, 0) + frame(DATA, END_STREAM, 1, b"x"),
        PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, 0, 1, head()) + frame(CONTINUATION, 0, 1, b"\0" * 16000) * 50,
        PREFACE + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"\0" * 8) * 10_000,
        call(frame(DATA, 0, 1, b"\0\xff\xff\xff\xff")),
        call(frame(DATA, END_STREAM, 1, b"\0\0\0\0\x09")),
        call(frame(DATA, END_STREAM, 1, b"\2\0\0\0\0")),
        call(frame(DATA, END_STREAM, 1, b"")),
        call(frame(DATA, END_STREAM, 1, b"\0\0\0\0\0" * 2)),
        call(frame(DATA, END_STREAM, 1, b"\0\0\0\0\0"), grpc_timeout="99999999999H"),
        call(frame(DATA, END_STREAM, 1, b"\1\0\0\0\3abc"), grpc_encoding="gzip"),
        call(frame(DATA, END_STREAM, 1, b"\1\0\0\0\3abc"), grpc_encoding="zstd"),
        call(frame(DATA, END_STREAM, 1, b"\1\0\0\0\3abc")),
    ],
)
def test_bytes_of_all_kinds(linear: RunningServer, data: bytes) -> None:
    say(linear, data)
    assert linear.caller.predict({"x": X})["y"].tolist() == [[10]]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (call(frame(DATA, 0, 1, b"\0\xff\xff\xff\xff")), b"8"),
        (call(frame(DATA, END_STREAM, 1, b"\0\0\0\0\x09")), b"13"),
        (call(frame(DATA, END_STREAM, 1, b"\0\0\0\0\0"), grpc_timeout="1.5S"), b"13"),
        (call(frame(DATA, END_STREAM, 1, b"\1\0\0\0\3abc"), grpc_encoding="zstd"), b"12"),
        (call(frame(DATA, END_STREAM, 1, b"\1\0\0\0\3abc"), grpc_encoding="gzip"), b"13"),
    ],
)
def test_malformed_calls_get_an_error(linear: RunningServer, data: bytes, status: bytes) -> None:
    heard = b""
    with socket.create_connection(("127.0.0.1", linear.port), timeout=ANSWER_WITHIN) as connection:
        connection.sendall(data)
        # The value is a Huffman-coded literal: the digits take 5 and 6 bits, and the rest is padded with ones.
        while huffman(status) not in heard:
            part = connection.recv(65536)
            assert part, heard
            heard += part


def huffman(digits: bytes) -> bytes:
    codes = {"0": "00000", "1": "00001", "2": "00010", "3": "011001", "8": "011110"}
    bits = "".join(codes[chr(digit)] for digit in digits)
    bits += "1" * (-len(bits) % 8)
    value = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return bytes([0x80 | len(value)]) + value


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_decompression_is_bounded(linear: RunningServer, compression: grpc.Compression) -> None:
    bomb = predict_request({"x": np.zeros((1_000_000, 4), np.float32)}, as_content=True).SerializeToString()
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = linear.caller.channel.unary_unary(PREDICT)
    with pytest.raises(grpc.RpcError) as raised:
        send(bomb, compression=compression, timeout=ANSWER_WITHIN)
    assert refusal_of(raised.value).code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "more than 100000" in refusal_of(raised.value).text


def test_a_burst_of_cancellations_ends_no_other_call(linear: RunningServer) -> None:
    cancelled = b"".join(
        frame(HEADERS, END_HEADERS, stream, head()) + frame(3, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 201, 2)
    )
    request = prefixed(predict_request({"x": X}).SerializeToString())
    whole = frame(HEADERS, END_HEADERS, 201, head()) + frame(DATA, END_STREAM, 201, request)
    with socket.create_connection(("127.0.0.1", linear.port), timeout=ANSWER_WITHIN) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + cancelled + whole)
        assert begun(connection, 201)


def test_streams_that_are_reset_at_once(linear: RunningServer) -> None:
    opened = b"".join(
        frame(HEADERS, END_HEADERS, stream, head()) + frame(3, 0, stream, struct.pack(">I", 8))
        for stream in range(1, 4001, 2)
    )
    say(linear, PREFACE + frame(SETTINGS, 0, 0) + opened)
    assert linear.caller.predict({"x": X})["y"].tolist() == [[10]]


def test_a_decompression_delays_no_other_call(running: Run) -> None:
    linear = running(models.linear, grpc_channel_arguments="grpc.max_receive_message_length=55000000")
    request = predict_request({"x": X}).SerializeToString()
    bomb = gzip.compress(bytes(60_000_000))  # compressed, it fits into a window that has not been widened yet
    with socket.create_connection(("127.0.0.1", linear.port), timeout=ANSWER_WITHIN) as connection:
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_HEADERS, 1, head(grpc_encoding="gzip")))
        connection.sendall(frame(DATA, 0, 1, b"\1" + struct.pack(">I", len(bomb)) + bomb[:16_000]))
        rest = [bomb[start : start + 16_000] for start in range(16_000, len(bomb), 16_000)]
        message = b"".join(frame(DATA, 0, 1, part) for part in rest) + frame(DATA, END_STREAM, 1)
        after = frame(PING, 0, 0, bytes(8)) + frame(HEADERS, END_HEADERS, 3, head())
        # Everything is sent at once: if this process were held up in between, the decompression might end first.
        connection.sendall(message + after + frame(DATA, END_STREAM, 3, prefixed(request)))
        heard = ((kind, stream) for kind, stream in frames(connection) if kind != WINDOW_UPDATE)
        assert next(kind for kind, stream in heard if kind == PING or stream == 1) == PING
        assert begun(connection, 3, before=1)


def prefixed(message: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(message)) + message


def begun(connection: socket.socket, stream: int, *, before: int = 0) -> bool:
    """Whether the answer to a stream begins before that of another stream, and before the server falls silent."""
    streams = (stream for kind, stream in frames(connection) if kind == HEADERS)
    return next((each for each in streams if each in (stream, before)), None) == stream


def frames(connection: socket.socket) -> Iterator[tuple[int, int]]:
    """The kind and the stream of each frame, until the server falls silent."""
    try:
        while True:
            start = exactly(connection, 9)
            exactly(connection, int.from_bytes(start[:3]))
            yield start[3], int.from_bytes(start[5:])
    except (TimeoutError, EOFError):
        pass


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def test_a_caller_that_reads_no_answers_gets_no_more(running: Run) -> None:
    server = running(partial(models.repeated, columns=250_000))
    request = predict_request({"x": floats([1])}).SerializeToString()
    message = prefixed(request)
    no_window = frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0))
    with socket.create_connection(("127.0.0.1", server.port), timeout=ANSWER_WITHIN) as connection:
        connection.sendall(PREFACE + no_window)
        for stream in range(1, 100, 2):
            connection.sendall(frame(HEADERS, END_HEADERS, stream, head()) + frame(DATA, END_STREAM, stream, message))
            connection.settimeout(ANSWER_WITHIN if stream // 2 < 16 else 1)
            if not begun(connection, stream):
                break
        assert stream // 2 in {16, 17, 18}  # answers of one megabyte
        assert server.caller.predict({"x": floats([2])})["y"].tolist() == [[2] * 250_000]
        more = b"".join(frame(8, 0, each, struct.pack(">I", 1 << 26)) for each in (0, *range(1, stream, 2)))
        connection.settimeout(ANSWER_WITHIN)
        connection.sendall(more)
        assert begun(connection, stream)

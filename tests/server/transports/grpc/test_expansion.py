"""Compressed messages on grpcio: decompressed step by step, within the budget, and never mistaken for plain ones."""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from headrace_protos.pool import POOL
from headrace_server.errors import ServingError
from headrace_server.transports.budget import COPIES, Budget
from headrace_server.transports.grpc.expansion import FIRST_STEP, STARTS, STEP, Expander, Inflation
from tests.conftest import Run, Serve
from tests.support import models
from tests.support.budget import held
from tests.support.calls import ANSWER_WITHIN, PREDICT, floats, predict_request, refusal_of
from tests.support.frames import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, frame, head
from tests.support.running import LoopThread, RunningServer, eventually

X = floats([1, 2, 3, 4])
BUDGET_MB = 64
MEGABYTE = 1 << 20
COMPRESSIONS = [grpc.Compression.Gzip, grpc.Compression.Deflate]


@pytest.fixture(scope="module")
def transport() -> str:
    return "grpcio"


@pytest.fixture(scope="module")
def linear(running: Run) -> RunningServer:
    return running(models.linear, request_memory_mb=BUDGET_MB, request_expanded_mb=8)


def rows(count: int) -> bytes:
    return predict_request({"x": np.ones((count, 4), np.float32)}, as_content=True).SerializeToString()


def send(server: RunningServer, data: bytes, compression: grpc.Compression) -> bytes:
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    return call(data, compression=compression, timeout=ANSWER_WITHIN)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("count", [1, 1000, 50_000], ids=["small", "a step", "several steps"])
def test_a_valid_message_is_answered(linear: RunningServer, compression: grpc.Compression, count: int) -> None:
    assert send(linear, rows(count), compression) == send(linear, rows(count), grpc.Compression.NoCompression)
    eventually(lambda: held(linear)["received"] == 0)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_bomb_is_decompressed_up_to_the_limit(linear: RunningServer, compression: grpc.Compression) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        send(linear, bytes(100 * MEGABYTE), compression)

    assert refusal_of(raised.value) == (
        StatusCode.RESOURCE_EXHAUSTED,
        "SERVER: Received message larger than max (more than 8388608 vs. 8388608)",
    )
    eventually(lambda: held(linear)["received"] == 0)


def test_a_bomb_within_the_limit_is_decompressed_up_to_the_budget(running: Run) -> None:
    server = running(models.linear, request_memory_mb=4)
    with pytest.raises(grpc.RpcError) as raised:
        send(server, bytes(20 * MEGABYTE), grpc.Compression.Gzip)

    assert refusal_of(raised.value).code is StatusCode.RESOURCE_EXHAUSTED
    assert "--request_memory_mb" in refusal_of(raised.value).text
    assert server.caller.predict({"x": X})["y"].tolist() == [[10]]
    eventually(lambda: held(server)["received"] == 0)


def test_the_channel_argument_limits_decompression_too(running: Run) -> None:
    server = running(models.linear, grpc_channel_arguments="grpc.max_receive_message_length=100000")
    with pytest.raises(grpc.RpcError) as raised:
        send(server, rows(100_000), grpc.Compression.Gzip)

    assert refusal_of(raised.value).code is StatusCode.RESOURCE_EXHAUSTED
    assert "more than 100000 vs. 100000" in refusal_of(raised.value).text


DAMAGED = {
    "cut": (gzip.compress(bytes(range(256)) * 1000)[:-9], "it is incomplete"),
    "empty": (gzip.compress(b"")[:10], "it is incomplete"),
    "changed": (gzip.compress(bytes(5000))[:-8] + bytes(8), "incorrect data check"),
    "no code": (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 20, "invalid block type"),
    "zlib": (zlib.compress(bytes(5000))[:-4] + bytes(4), "incorrect data check"),
}


@pytest.mark.parametrize("damaged", DAMAGED)
def test_damaged_data_are_refused(linear: RunningServer, damaged: str) -> None:
    data, why = DAMAGED[damaged]
    with pytest.raises(grpc.RpcError) as raised:
        send(linear, data, grpc.Compression.NoCompression)

    assert refusal_of(raised.value).code is StatusCode.INTERNAL
    assert refusal_of(raised.value).text.startswith("a compressed message cannot be expanded: ")
    assert why in refusal_of(raised.value).text
    eventually(lambda: held(linear)["received"] == 0)


INFER = "/inference.GRPCInferenceService/ModelStreamInfer"


def test_messages_of_a_stream_are_bounded_each(linear: RunningServer) -> None:
    stream: Any = linear.caller.channel.stream_stream(INFER)
    request = b"\x0a\x05model" + b"\x22" + _length(7 * MEGABYTE) + bytes(7 * MEGABYTE)
    for _ in range(2):
        with pytest.raises(grpc.RpcError) as raised:
            list(stream(iter([request + request]), compression=grpc.Compression.Gzip, timeout=ANSWER_WITHIN))
        assert "more than 8388608" in refusal_of(raised.value).text
    eventually(lambda: held(linear)["received"] == 0)


def _length(count: int) -> bytes:
    """A varint."""
    return bytes([count & 127 | 128, *_length(count >> 7)]) if count > 127 else bytes([count])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_grpcios_own_services_read_short_messages(linear: RunningServer, compression: grpc.Compression) -> None:
    check = health_pb2_grpc.HealthStub(linear.caller.channel).Check
    served = check(health_pb2.HealthCheckRequest(), compression=compression, timeout=ANSWER_WITHIN)
    assert served.status == health_pb2.HealthCheckResponse.SERVING

    with pytest.raises(grpc.RpcError) as raised:
        check(
            health_pb2.HealthCheckRequest(service="x" * (64 * MEGABYTE)), compression=compression, timeout=ANSWER_WITHIN
        )
    assert refusal_of(raised.value).code is StatusCode.UNKNOWN  # grpcio's own code for invalid messages
    assert "more than 1048576 vs. 1048576" in refusal_of(raised.value).text
    assert check(health_pb2.HealthCheckRequest(), timeout=ANSWER_WITHIN) == served


class TestExpander:
    """The expander alone, without a server."""

    def test_a_message_that_is_not_compressed_is_the_same_object(self, loop_thread: LoopThread) -> None:
        data = rows(1)
        assert expanded(loop_thread, data, Budget(0)) is data

    @pytest.mark.parametrize("size", [0, 1, FIRST_STEP - 1, FIRST_STEP, FIRST_STEP + 1, 3 * STEP, 5 * STEP + 7])
    @pytest.mark.parametrize("compress", [gzip.compress, zlib.compress])
    def test_a_call_counts_the_size_of_its_decompressed_message(
        self, loop_thread: LoopThread, compress: Callable[[bytes], bytes], size: int
    ) -> None:
        data, budget = np.random.default_rng(0).bytes(size), Budget(32 * STEP)

        assert expanded(loop_thread, compress(data), budget) == data
        assert budget.used == COPIES * size

    def test_memory_is_reserved_before_it_is_used(self, loop_thread: LoopThread) -> None:
        budget = Budget(4 * STEP)
        with pytest.raises(ServingError, match="--request_memory_mb"):
            expanded(loop_thread, gzip.compress(bytes(2 * STEP)), budget)
        assert budget.used <= budget.limit // 2

    @pytest.mark.parametrize(("limit", "fits"), [(5000, True), (4999, False), (0, False)])
    def test_the_limit_itself_is_allowed(self, limit: int, fits: bool) -> None:
        inflation = Inflation(gzip.compress(bytes(5000)), limit)
        with nullcontext() if fits else pytest.raises(ServingError, match=f"more than {limit} vs"):
            inflation.step(10_000)
        assert inflation.size == min(5000, limit + 1)

    def test_a_step_decompresses_no_more_than_its_size(self) -> None:
        inflation = Inflation(gzip.compress(bytes(5000)), 10_000)
        sizes = []
        while not inflation.is_whole:
            inflation.step(1000)
            sizes.append(inflation.size)
        assert sizes[:5] == [1000, 2000, 3000, 4000, 5000]
        assert inflation.message == bytes(5000)


def expanded(loop: LoopThread, data: bytes, budget: Budget) -> bytes:
    """The decompressed message; its memory stays counted in the budget."""
    expander = Expander(1 << 30, 1)
    try:
        return loop.run(expander.expanded(data, budget.hold()))
    finally:
        expander.close()


def test_no_request_begins_like_compressed_data() -> None:
    """Read as protobuf, zlib's first byte begins a number in field 15, which no message has; gzip's is invalid."""
    for message in requests():
        assert 15 not in message.fields_by_number or (
            message.fields_by_number[15].type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_MESSAGE)
        ), message.full_name
    assert {start[0] for start in STARTS} == {3 << 3 | 7, 15 << 3}


def requests() -> Iterator[Any]:
    services = (
        "tensorflow.serving.PredictionService",
        "tensorflow.serving.ModelService",
        "inference.GRPCInferenceService",
    )
    for name in services:
        yield from (method.input_type for method in POOL.FindServiceByName(name).methods)
    yield health_pb2.HealthCheckRequest.DESCRIPTOR
    yield reflection_pb2.ServerReflectionRequest.DESCRIPTOR


def test_bombs_of_many_callers_stay_within_the_budget(serving: Serve, tmp_path: Path) -> None:
    """If gRPC decompressed these 20, it would expand them to 1.2 GB before they are refused."""
    models.linear(tmp_path / "1")
    process = serving(tmp_path, f"--request_memory_mb={BUDGET_MB}")
    caller = process.started()
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = caller.channel.unary_unary(PREDICT)
    honest = predict_request({"x": np.random.default_rng(0).random((30, 4), np.float32)}).SerializeToString()
    call(honest, compression=grpc.Compression.Gzip, timeout=ANSWER_WITHIN)
    before = most_resident(process.process.pid)

    bomb = gzip.compress(bytes(60 * MEGABYTE))  # less than fits into a window that has not been widened yet
    message = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    parts = [frame(DATA, 0, 1, message[at : at + 16384]) for at in range(0, len(message), 16384)]
    with ExitStack() as stack:
        bombers = [stack.enter_context(Connection(caller.port)) for _ in range(20)]
        for bomber in bombers:
            bomber.say(frame(HEADERS, END_HEADERS, 1, head(grpc_encoding="gzip")), *parts, frame(DATA, END_STREAM, 1))
        call(honest, compression=grpc.Compression.Gzip, timeout=ANSWER_WITHIN)
        for bomber in bombers:
            bomber.next(HEADERS)

    assert most_resident(process.process.pid) - before < (BUDGET_MB + 50) * MEGABYTE
    caller.close()


def most_resident(pid: int) -> int:
    """The peak memory of a process in bytes."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024

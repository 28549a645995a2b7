"""Lone calls, which bypass h2, and the state of their connection, which must be the same as if h2 had seen them."""

import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from headrace_batching import Options, bridge
from headrace_batching.task import Arrays
from headrace_server.backends.onnx.backend import OnnxBackend
from tests.conftest import Run
from tests.support import models
from tests.support.budget import held
from tests.support.calls import ANSWER_WITHIN, floats, predict_request
from tests.support.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Connection,
    frame,
    literal,
)
from tests.support.lone import LoneCaller, answer, initial_window, window_update
from tests.support.running import RunningServer, eventually

pytest.importorskip("headrace_native")

REQUEST = predict_request({"x": floats([1, 2, 3, 4])}).SerializeToString()
PINGED = frame(PING, 0, 0, bytes(8))


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture
def caller(running: Run) -> Iterator[LoneCaller]:
    """A caller whose calls bypass h2."""
    with Connection(running(models.linear).port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        yield caller


class Held:
    """Runs of the model that wait while they are held."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def hold(self) -> None:
        self.begun.clear()
        self.go_on.clear()

    def begin(self, caller: LoneCaller) -> None:
        """Begins a call whose run waits until `go_on`."""
        self.hold()
        caller.begin()
        assert self.begun.wait(ANSWER_WITHIN)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """The runs of all models, which are all on batch threads."""
    runs, run = Held(), OnnxBackend.run

    def seen(backend: OnnxBackend, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        runs.begun.set()
        assert runs.go_on.wait(ANSWER_WITHIN)
        return run(backend, signature, inputs, outputs)

    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    monkeypatch.setattr(OnnxBackend, "run", seen)
    monkeypatch.setattr(bridge, "SHARED", replace(bridge.SHARED, pace=replace(bridge.SHARED.pace, quick=0.0, slow=0.0)))
    yield runs
    runs.go_on.set()


@pytest.fixture
def waiting(runs: Held, caller: LoneCaller) -> LoneCaller:
    """A caller whose newest call has bypassed h2, and waits for its answer until `runs.go_on`."""
    assert caller.bypasses()
    runs.begin(caller)
    return caller


def counted(server: RunningServer) -> int:
    """The number of calls that have been answered."""
    page = server._server._metrics.page().decode()
    lines = [line for line in page.splitlines() if line.startswith(":tensorflow:serving:request_count")]
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines)


def has_counted(server: RunningServer, calls: int) -> bool:
    """Whether this many calls have been answered."""
    return counted(server) == calls


def test_the_answers_are_those_of_h2(running: Run) -> None:
    with Connection(running(models.linear).port) as connection:
        caller = LoneCaller(connection, REQUEST)
        answers = [answer(connection, caller.begin()) for _ in range(20)]
    assert not answers[0][0], "the first call must be read by h2"
    assert answers[-1][0]
    assert len({data for _, data in answers}) == 1


def test_calls_are_counted_and_their_memory_is_returned(running: Run) -> None:
    server = running(models.linear)
    before = counted(server)
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, REQUEST)
        for _ in range(20):
            answer(connection, caller.begin())
        eventually(lambda: counted(server) == before + 20)
        eventually(lambda: sum(held(server).values()) == 0)


@pytest.mark.parametrize(
    "late", [PINGED, frame(SETTINGS, 0, 0), window_update(0, 1)], ids=["ping", "settings", "window"]
)
def test_frames_between_calls(caller: LoneCaller, late: bytes) -> None:
    caller.connection.say(late)
    caller.settle()


@pytest.mark.parametrize(
    ("kind", "payload"), [(RST_STREAM, bytes(4)), (PRIORITY, bytes(5)), (WINDOW_UPDATE, b"\0\0\0\1")]
)
def test_frames_for_an_answered_call(caller: LoneCaller, kind: int, payload: bytes) -> None:
    caller.connection.say(frame(kind, 0, caller.stream, payload))
    caller.settle()


@pytest.mark.parametrize("back", [2, 4])
def test_a_stream_cannot_be_opened_twice(caller: LoneCaller, back: int) -> None:
    caller.stream -= back
    caller.begin()
    refused = next(heard for heard in caller.connection.hear() if heard.kind in (DATA, RST_STREAM, GOAWAY))
    assert refused.kind != DATA


def test_goaway_tells_the_newest_call(caller: LoneCaller) -> None:
    caller.connection.say(PINGED * 4)
    *_, last = caller.connection.hear()
    assert last.kind == GOAWAY
    assert struct.unpack(">I", last.payload[:4])[0] == caller.stream


def test_goaway_after_an_error_tells_the_newest_call(caller: LoneCaller) -> None:
    caller.connection.say(frame(DATA, 0, 0, b""))
    *_, last = caller.connection.hear()
    assert last.kind == GOAWAY
    assert struct.unpack(">I", last.payload[:4])[0] == caller.stream


def test_an_idle_connection_is_drained_after_its_calls(running: Run) -> None:
    server = running(models.linear, grpc_channel_arguments="grpc.max_connection_idle_ms=300")
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        last = [struct.unpack(">I", heard.payload[:4])[0] for heard in connection.hear() if heard.kind == GOAWAY]
    assert last[-1] == caller.stream


@pytest.mark.parametrize(
    "more", [PINGED, window_update(0, 1), frame(SETTINGS, 0, 0)], ids=["ping", "window", "settings"]
)
def test_frames_before_the_answer(waiting: LoneCaller, runs: Held, more: bytes) -> None:
    waiting.connection.say(more, PINGED)
    waiting.connection.next(PING, ACK)
    runs.go_on.set()
    bypassed, data = answer(waiting.connection, waiting.stream)
    assert not bypassed
    assert data
    waiting.settle()


def test_a_second_call_before_the_answer(waiting: LoneCaller, runs: Held) -> None:
    first = waiting.stream
    second = waiting.begin()
    runs.go_on.set()
    ended = set()
    for heard in waiting.connection.hear():
        if heard.kind == HEADERS and heard.flags & END_STREAM:
            ended.add(heard.stream)
        if ended == {first, second}:
            break
    waiting.settle()


def test_a_cancelled_call(waiting: LoneCaller, runs: Held) -> None:
    cancelled = waiting.stream
    waiting.connection.say(frame(RST_STREAM, 0, cancelled, struct.pack(">I", 8)), PINGED)
    waiting.connection.next(PING, ACK)
    runs.go_on.set()
    stream = waiting.begin()
    heard = []
    for part in waiting.connection.hear():
        heard.append(part)
        if part.stream == stream and part.flags & END_STREAM:
            break
    assert cancelled not in [part.stream for part in heard]
    waiting.settle()


def test_a_call_whose_client_has_gone(running: Run, runs: Held) -> None:
    server = running(models.linear)
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        runs.begin(caller)
    runs.go_on.set()
    eventually(lambda: sum(held(server).values()) == 0)


def test_draining_waits_for_the_call(running: Run, runs: Held) -> None:
    server = running(models.linear)
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        runs.begin(caller)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        connection.next(GOAWAY)
        runs.go_on.set()
        heard = list(connection.hear())
        stopping.join()
    assert [part.stream for part in heard if part.kind == DATA] == [caller.stream]
    last = [struct.unpack(">I", part.payload[:4])[0] for part in heard if part.kind == GOAWAY]
    assert all(number >= caller.stream for number in last)


def test_a_waiting_call_is_kept_alive(running: Run, runs: Held) -> None:
    arguments = "grpc.keepalive_time_ms=100,grpc.keepalive_timeout_ms=10000"
    with Connection(running(models.linear, grpc_channel_arguments=arguments).port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        runs.begin(caller)
        connection.next(PING)
        runs.go_on.set()
        assert answer(connection, caller.stream)[1]


def test_a_deadline_passes(running: Run, runs: Held) -> None:
    server = running(models.linear, batching=Options(num_batch_threads=1))
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, REQUEST, grpc_timeout="1000m")
        caller.settle()
        runs.hold()
        first = server.caller.begin(predict_request({"x": floats([1, 2, 3, 4])}))
        assert runs.begun.wait(ANSWER_WITHIN)
        stream = caller.begin()
        assert connection.next(HEADERS, END_STREAM).stream == stream
        runs.go_on.set()
        assert first.result().outputs["y"].float_val == [10]


def test_an_error_is_answered_by_h2(running: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxBackend, "native_run", lambda *_: None)  # native runs do not call Python code
    with Connection(running(models.linear).port) as connection:
        caller = LoneCaller(connection, REQUEST)
        caller.settle()
        with monkeypatch.context() as context:
            context.setattr(OnnxBackend, "run", lambda *_: 1 / 0)
            stream = caller.begin()
            ended = connection.next(HEADERS, END_STREAM)
        assert ended.stream == stream
        caller.settle()


def test_a_table_that_has_changed_is_read_by_h2(running: Run) -> None:
    """The same bytes mean another path after another entry has been added."""
    path, other = "/tensorflow.serving.PredictionService/Predict", "/no.such.Service/Method"
    rest = b"\x83\x86" + literal("te", "trailers") + literal("content-type", "application/grpc")
    message = b"\0" + struct.pack(">I", len(REQUEST)) + REQUEST
    add = {name: b"\x44" + bytes([len(name)]) + name.encode() for name in (path, other)}

    def frames(stream: int, block: bytes) -> bytes:
        return frame(HEADERS, END_HEADERS, stream, block + rest) + frame(DATA, END_STREAM, stream, message)

    with Connection(running(models.linear).port) as connection:
        connection.say(window_update(0, 1 << 20), frames(1, add[path]))
        assert answer(connection, 1)[1]
        bypassed = []
        for stream in range(3, 21, 2):
            connection.say(frames(stream, b"\xbe"))
            bypassed.append(answer(connection, stream)[0])
        assert bypassed[-1]
        connection.say(frames(21, add[other]))
        assert answer(connection, 21) == (False, b"")
        connection.say(frames(23, b"\xbe"))
        assert answer(connection, 23) == (False, b"")
        connection.say(frames(25, b"\xbf"))
        assert answer(connection, 25)[1]


def test_the_declared_length_is_checked(running: Run) -> None:
    length = str(len(REQUEST) + 5)
    with Connection(running(models.linear).port) as connection:
        caller = LoneCaller(connection, REQUEST, content_length=length)
        caller.settle()
        connection.say(caller.frames(REQUEST[:-1]))
        assert next(heard for heard in connection.hear() if heard.stream == caller.stream).kind == RST_STREAM
        caller.settle()


def test_missed_calls_with_a_declared_length_are_no_errors(running: Run) -> None:
    """h2 ends a connection after 1,024 streams with errors."""
    with Connection(running(models.linear, grpc_channel_arguments="grpc.http2.max_ping_strikes=0").port) as connection:
        caller = LoneCaller(connection, REQUEST, content_length=str(len(REQUEST) + 5))
        for _ in range(1100):
            caller.settle()
            connection.say(window_update(0, 1000), PINGED)
            connection.next(PING, ACK)


def test_the_connection_window_is_neither_exceeded_nor_wasted(running: Run) -> None:
    server = running(partial(models.repeated, columns=1000))
    one = predict_request({"x": floats([1])}).SerializeToString()
    many = predict_request({"x": np.ones((100, 1), np.float32)}).SerializeToString()
    allowed = 65_535 + 300_000
    with Connection(server.port) as connection:
        connection.say(initial_window(1 << 30))
        caller = LoneCaller(connection, one, window=300_000)
        sent = 0
        for _ in range(10):
            bypassed, data = answer(connection, caller.begin())
            sent += len(data)
        assert bypassed
        connection.say(caller.frames(many))
        for heard in connection.hear():
            sent += len(heard.payload) if heard.kind == DATA else 0
            if sent >= allowed:
                break
        assert sent == allowed
        connection.say(PINGED)
        assert connection.next(PING, ACK)
        connection.say(window_update(0, 1 << 20))
        assert answer(connection, caller.stream)[1]


def test_a_stream_window_is_not_exceeded(caller: LoneCaller) -> None:
    caller.connection.say(initial_window(10))
    for _ in range(10):
        stream = caller.begin()
        assert len(caller.connection.next(DATA).payload) == 10
        caller.connection.say(window_update(stream, 1000))
        caller.connection.next(HEADERS, END_STREAM)
    caller.connection.say(initial_window(2000))
    caller.settle()


def test_a_long_answer_is_sent_by_h2(running: Run) -> None:
    request = predict_request({"x": floats([1])}).SerializeToString()
    with Connection(running(partial(models.repeated, columns=5000)).port) as connection:
        caller = LoneCaller(connection, request)
        for _ in range(10):
            bypassed, data = answer(connection, caller.begin())
            assert not bypassed
            assert len(data) > 20_000


def test_the_window_for_requests_is_given_back(running: Run) -> None:
    request = predict_request({"x": np.ones((150, 4), np.float32)}).SerializeToString()
    with Connection(running(models.linear).port) as connection:
        caller = LoneCaller(connection, request)
        caller.settle()
        connection.say(PINGED)
        connection.next(PING, ACK)
        given, data = 0, 0
        for _ in range(100):
            stream, data = caller.begin(), data + len(request) + 5
            for heard in connection.hear():
                if heard.kind == WINDOW_UPDATE and heard.stream == 0:
                    given += struct.unpack(">I", heard.payload)[0]
                if heard.stream == stream and heard.flags & END_STREAM:
                    break
    assert data > 200_000
    assert data - (64 << 10) <= given <= data + (64 << 10)


def test_answers_that_are_not_read_stay_whole(running: Run) -> None:
    server = running(partial(models.repeated, columns=3500))
    request = predict_request({"x": floats([1])}).SerializeToString()
    with Connection(server.port) as connection:
        caller = LoneCaller(connection, request, window=1 << 30)
        caller.settle()
        first = caller.stream + 2
        before = counted(server)
        for calls in range(1, 701):
            caller.begin()
            eventually(partial(has_counted, server, before + calls))
        answers, ended = dict.fromkeys(range(first, caller.stream + 2, 2), 0), 0
        for heard in connection.hear():
            if heard.kind == DATA:
                answers[heard.stream] += len(heard.payload)
            ended += heard.flags & END_STREAM if heard.kind == HEADERS else 0
            if ended == len(answers):
                break
    assert len(set(answers.values())) == 1

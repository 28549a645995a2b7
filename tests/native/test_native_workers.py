"""Exchanges with worker processes: which ones headrace_native repeats by itself, and which ones it leaves to Python."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_server.processes import isolated
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import Message, Slot
from tests.conftest import Run, Stop
from tests.server.processes.python_models import CRASHES, HANGS, KEEPS, RAISES, WRITES, rows, write
from tests.support.calls import ANSWER_WITHIN, predict_request
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

TOGETHER = Options(max_batch_size=3, batch_timeout_micros=60_000_000, num_batch_threads=1)
"""Three calls form a batch."""


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "PATIENCE", 60.0)


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[Message]:
    """The messages that Python has received."""
    received, receive = list[Message](), Slot.receive

    def seen(slot: Slot, timeout: float | None = None) -> Message:
        received.append(receive(slot, timeout))
        return received[-1]

    monkeypatch.setattr(Slot, "receive", seen)
    return received


def call(server: RunningServer, value: float, count: int = 1) -> list[list[float]]:
    answer: list[list[float]] = server.caller.predict({"x": np.full((count, 2), value, np.float32)})["y"].tolist()
    return answer


def kept(server: RunningServer) -> float:
    """The sum of the inputs that the model has kept."""
    return float(server.caller.predict({"x": rows(0)})["kept"][0])


def learn(server: RunningServer, *counts: int) -> None:
    """Makes calls with these numbers of rows until their exchanges are known."""
    for count in (counts or (1,)) * 4:
        call(server, 5, count)


def test_known_exchanges_need_no_python(running: Run, served: Stop, received: list[Message]) -> None:
    server = running(write)
    learn(server, 1, 2, 3)
    received.clear()
    for value, count in ((1, 1), (2, 3), (3, 2), (4, 1)):
        assert call(server, value, count) == [[value + 1] * 2] * count
    assert received == []
    assert served(server) == (16, 31, 16)


def test_larger_batches_get_more_memory(running: Run, received: list[Message]) -> None:
    server = running(write, batching=Options(max_batch_size=500))
    for count in (1, 33, 500, 33, 1):
        learn(server, count)
        received.clear()
        assert call(server, count, count) == [[count + 1] * 2] * count
        assert received == []


def test_memory_for_large_rows_has_no_room_that_no_batch_fills(
    running: Run, received: list[Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, empty = list[int](), OwnedMemory.empty

    def seen(memory: OwnedMemory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        sizes.append((array := empty(memory, shape, dtype)).nbytes)
        return array

    server = running(lambda folder: write(folder, WIDE))
    monkeypatch.setattr(OwnedMemory, "empty", seen)
    row = np.ones((1, 100_000), np.float32)
    for count in (1, 2, 1, 2) * 4:
        received.clear()
        assert server.caller.predict({"x": row.repeat(count, axis=0)})["y"].tolist() == [2] * count
    assert received == []
    assert sizes
    assert max(sizes) <= 1 << 20


def test_the_model_may_write_to_its_inputs(running: Run) -> None:
    server = running(write)
    learn(server)
    assert call(server, WRITES) == [[WRITES + 1] * 2]
    assert call(server, 7) == [[8, 8]]


def test_inputs_that_the_model_has_kept_are_not_overwritten(running: Run) -> None:
    server = running(write)
    learn(server)
    for times in range(1, 5):
        call(server, KEEPS)
        call(server, 9)
        assert kept(server) == 2 * KEEPS * times


def test_only_the_task_that_cannot_succeed_fails(running: Run) -> None:
    server = running(write, batching=TOGETHER)
    for _ in range(4):
        calls = [server.caller.begin(predict_request({"x": rows(value)})) for value in (1, 2, 3)]
        assert [own.result(ANSWER_WITHIN).outputs["y"].float_val[0] for own in calls] == [2, 3, 4]
    calls = [server.caller.begin(predict_request({"x": rows(value)})) for value in (RAISES, 2, 3)]
    assert calls[0].code() == StatusCode.INTERNAL
    assert [own.result(ANSWER_WITHIN).outputs["y"].float_val[0] for own in calls[1:]] == [3, 4]


def test_a_batch_whose_process_has_ended_is_not_run_again(running: Run, received: list[Message]) -> None:
    server = running(write)
    learn(server)
    refusal = server.caller.refusal(predict_request({"x": rows(CRASHES)}))
    assert refusal.code == StatusCode.INTERNAL
    assert "its worker process was ended by SIGSEGV during the run" in refusal.text
    received.clear()
    assert call(server, 1) == [[2, 2]]
    assert [message.kind for message in received].count("ran") == 1


def test_a_run_that_takes_too_long_is_ended_with_its_process(running: Run) -> None:
    server = running(lambda folder: limited(write(folder), "run_timeout = 0.5"))
    learn(server)
    refusal = server.caller.refusal(predict_request({"x": rows(HANGS)}))
    assert refusal.code == StatusCode.DEADLINE_EXCEEDED
    assert "a run took more than 0.5 s, and its worker process was ended" in refusal.text
    assert call(server, 1) == [[2, 2]]


def test_a_call_after_the_process_was_killed_is_answered_by_the_next_one(running: Run) -> None:
    server = running(lambda folder: write(folder, PID))
    learn(server)
    first = call(server, 0)[0][0]
    os.kill(int(first), signal.SIGKILL)
    assert call(server, 0)[0][0] != first
    learn(server)


def test_answers_are_returned_whoever_has_received_them(running: Run, received: list[Message]) -> None:
    server = running(write)
    for _ in range(20):
        call(server, 1)
        assert server.caller.predict({"x": rows(2)}, outputs=["y"])["y"].tolist() == [[3, 3]]
    numbers = [message.content[0] for message in received if message.kind == "ran"]
    assert max(numbers) < 3


def test_python_receives_answers_with_strings(running: Run) -> None:
    server = running(lambda folder: write(folder, STRINGS))
    for value in range(4):
        assert server.caller.predict({"x": rows(value)})["y"].tolist() == [f"{value}".encode()]


def mapped() -> int:
    """The bytes of the memory of other processes that is mapped here."""
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if "headrace-arrays" in line]
    return sum(int(end, 16) - int(start, 16) for start, end in ranges)


def test_known_answers_keep_no_memory_that_the_process_has_freed(running: Run) -> None:
    server = running(lambda folder: write(folder, FREES), batching=Options(max_batch_size=24))
    before = mapped()
    learn(server, *range(1, 25))
    assert mapped() - before < 32 << 20  # all answers together have 120 MB


def limited(folder: Path, options: str) -> Path:
    """The version, with these options for its worker processes."""
    (folder.parent / "model.toml").write_text(f"[isolation]\n{options}\n")
    return folder


PID = """
import os
import numpy as np

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("float32", [None, 2])}

def predict(inputs):
    return {"y": np.full(inputs["x"].shape, os.getpid(), np.float32)}
"""

FREES = """
import gc
import numpy as np
from headrace_server.backends.buffer_pool import BufferPool

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("float32", [None, 100_000])}

def predict(inputs):
    for own in gc.get_objects():
        if isinstance(own, BufferPool):
            own._limit = 0
    return {"y": np.repeat(inputs["x"][:, :1], 100_000, axis=1)}
"""

WIDE = """
INPUTS = {"x": ("float32", [None, 100_000])}
OUTPUTS = {"y": ("float32", [None])}

def predict(inputs):
    return {"y": inputs["x"][:, 0] + 1}
"""

STRINGS = """
import numpy as np

INPUTS = {"x": ("float32", [None, 2])}
OUTPUTS = {"y": ("string", [None])}

def predict(inputs):
    return {"y": np.array([str(int(row[0])).encode() for row in inputs["x"]], object)}
"""

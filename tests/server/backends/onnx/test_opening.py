"""Sessions are opened on a thread of their own until the time is over, or nobody needs them any more."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from headrace_server.backends.onnx.native_session import NativeSession, Opening
from tests.support import models
from tests.support.running import eventually

pytest.importorskip("headrace_native")

ENOUGH = 60.0
"""Seconds within which every session is opened."""

X = {"x": np.ones((1, 4), np.float32)}


def model(folder: Path, bias: float = 0.0) -> str:
    return str(models.linear(folder, bias=bias))


def pipe(path: Path) -> Path:
    """A file that is opened once something opens it for writing, too."""
    os.mkfifo(path)
    return path


def answer(session: NativeSession | None) -> float:
    assert session is not None
    return float(session.run(["y"], X)[0][0, 0])


def is_opening() -> bool:
    """Whether this process has a thread that opens sessions."""
    for name in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended
            if name.read_text() == "open\n":
                return True
    return False


def test_each_session_is_that_of_its_model_and_is_taken_once(tmp_path: Path) -> None:
    files = [model(tmp_path / str(number), bias=number) for number in range(3)]
    opening = Opening([files[0], Path(files[1]).read_bytes(), files[2]], ort.SessionOptions(), ENOUGH)
    assert [answer(opening.take(number)) for number in (2, 0, 1)] == [6, 4, 5]
    assert [opening.take(number) for number in (0, 3)] == [None, None]


def test_a_model_that_cannot_be_opened_has_no_session(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    files = [str(tmp_path / "broken.onnx"), str(tmp_path / "missing.onnx"), model(tmp_path / "sound")]
    opening = Opening(files, ort.SessionOptions(), ENOUGH)
    assert [opening.take(0), opening.take(1)] == [None, None]
    assert answer(opening.take(2)) == 4


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_session_is_begun_once_the_time_is_over(tmp_path: Path, seconds: float) -> None:
    opening = Opening([model(tmp_path)], ort.SessionOptions(), seconds)
    assert opening.take(0) is None


def test_a_session_lives_longer_than_what_has_opened_it(tmp_path: Path) -> None:
    session = Opening([model(tmp_path)], ort.SessionOptions(), ENOUGH).take(0)
    assert answer(session) == 4


def test_others_run_while_a_thread_waits_for_a_session(tmp_path: Path) -> None:
    slow = pipe(tmp_path / "slow.onnx")
    opening = Opening([str(slow)], ort.SessionOptions(), ENOUGH)
    taken: list[NativeSession | None] = []
    waiting = threading.Thread(target=lambda: taken.append(opening.take(0)))
    waiting.start()
    slow.write_bytes(b"no model")  # opens it as soon as it is being read
    waiting.join()
    assert taken == [None]


def test_no_further_session_is_begun_once_nobody_needs_it(tmp_path: Path) -> None:
    slow, next_one = pipe(tmp_path / "slow.onnx"), pipe(tmp_path / "next.onnx")
    opening = Opening([str(slow), str(next_one)], ort.SessionOptions(), ENOUGH)
    with slow.open("wb") as content:  # the first session has been begun
        del opening
        content.write(b"no model")
    assert eventually(lambda: not is_opening())

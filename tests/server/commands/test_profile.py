"""`headrace profile`: turns a log of requests into a profile, with which the server compares later requests."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_server.commands.command_line import run_command
from headrace_server.models.tfrecord import frame
from headrace_server.monitoring.profiles import read_profile
from tests.support.calls import floats, predict_request
from tests.support.records import predict_log

RANDOM = np.random.default_rng(0)


def write_log(file: Path, requests: Iterable[Array], model: str = "model") -> Path:
    records = (predict_log(predict_request({"x": rows.astype(np.float32)}, name=model)) for rows in requests)
    file.write_bytes(b"".join(map(frame, records)))
    return file


def predict_record(content: bytes) -> bytes:
    """The record of a Predict whose tensor has these bytes, and the shape of four floats."""
    request = predict_request({"x": floats([1, 2, 3, 4])}, name="model")
    request.inputs["x"].tensor_content = content
    return frame(predict_log(request))


def profile(*arguments: object) -> int:
    return run_command(["profile", *map(str, arguments)])


def test_a_log_becomes_a_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log", (RANDOM.normal(size=(2, 4)) for _ in range(500)))
    assert profile(log, f"--output={tmp_path}") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'profile.json'}: 1000 rows of x\n"
    columns = read_profile(tmp_path)["x"]
    assert len(columns) == 4
    assert columns[0] is not None
    assert columns[0].index(columns[0].count(RANDOM.normal(size=1000))) < 0.1
    assert columns[0].index(columns[0].count(RANDOM.normal(3, size=1000))) > 0.2


def test_of_one_model_among_others(tmp_path: Path) -> None:
    mine = write_log(tmp_path / "mine", [floats([1, 2, 3, 4])])
    others = write_log(tmp_path / "others", [floats([1, 2, 3, 4])] * 7, "other")
    assert profile(others, mine, f"--output={tmp_path}", "--model=model") == 0
    assert json.loads((tmp_path / "profile.json").read_text())["rows"] == 1


def test_requests_that_are_unlike_the_first_are_left_out(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", [floats([1, 2]), floats([1, 2, 3]), floats([3, 4])])
    assert profile(log, f"--output={tmp_path}") == 0
    assert json.loads((tmp_path / "profile.json").read_text())["rows"] == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "log cannot be read: No such file"),
        (b"", "no Predict for this model"),
        (b"no log at all", "log is not a request log (a TFRecord file of PredictionLogs): corrupted record"),
        (frame(b"\xff\xff"), "log is not a request log (a TFRecord file of PredictionLogs): Error parsing message"),
        (predict_record(b"abc"), "log is not a request log (a TFRecord file of PredictionLogs): 3 bytes of content"),
    ],
    ids=["missing", "empty", "text", "records of something else", "a tensor that lacks bytes"],
)
def test_files_that_are_not_logs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str
) -> None:
    log = tmp_path / "log"
    if content is not None:
        log.write_bytes(content)
    assert profile(log, f"--output={tmp_path}") == 1
    error = capsys.readouterr().err
    assert error.startswith("headrace: ")
    assert says in error
    assert error.count("\n") == 1


def test_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log", [floats([1, 2])])
    assert profile(log, f"--output={tmp_path / 'nowhere'}") == 1
    assert capsys.readouterr().err == (
        f"headrace: {tmp_path}/nowhere/profile.json cannot be written: there is no folder {tmp_path}/nowhere\n"
    )


def test_logs_before_and_after_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "log", [floats([1, 2])])
    assert profile(log, f"--output={tmp_path}", log) == 0
    assert " 2 rows of x" in capsys.readouterr().out

"""Log lines: their format, their number, and one line for each call."""

import json
import logging
import re
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from headrace_protos import PredictRequest, PredictResponse
from headrace_server.commands.headrace import main
from headrace_server.commands.log import TextFormatter
from headrace_server.metrics.access_log import log_call
from tests.conftest import Serve
from tests.support import models
from tests.support.calls import PREDICT, Caller, floats, predict_request
from tests.support.running import START_WITHIN

X = floats([1, 2, 3, 4])


def ended_log(serving: Serve, folder: Path, *flags: str) -> list[str]:
    """The log of a server that gets two calls, one of which fails."""
    models.linear(folder / "1")
    process = serving(folder, *flags)
    port = int(process.wait_for(re.compile(r"Running gRPC ModelServer at [^ ]*:(\d+)"))[1])
    caller = Caller(port)
    caller.predict({"x": X})
    caller.refusal(predict_request({"x": X}, name="nobody"))
    caller.close()
    process.terminate()
    process.ended()
    return process.log


def test_a_line_has_a_date(serving: Serve, tmp_path: Path) -> None:
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} INFO", ended_log(serving, tmp_path)[0])


def test_json(serving: Serve, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in ended_log(serving, tmp_path, "--log_format=json")]

    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert all(datetime.fromisoformat(line["time"]).tzinfo for line in lines)


def test_a_name_forges_no_record() -> None:
    text = 'm code=OK ms=1.0 id=1\n2026-01-01T00:00:00+0000 INFO    forged\x1b[2J\u2028"'
    record = logging.makeLogRecord({"msg": "model %s is gone", "args": (text,), "levelname": "INFO"})

    lines = TextFormatter().format(record).split("\n")
    assert [line[:2] for line in lines] == [lines[0][:2], "  "]
    assert lines[1].endswith('forged\\x1b[2J\\u2028" is gone')


@pytest.mark.parametrize(
    ("model", "shown"),
    [("m", "m"), ("", "-"), ("é" * 101, "é" * 100), ("m code=OK", '"m code=OK"'), ("m\nx", r'"m\nx"'), ('"', r'"\""')],
)
def test_a_model_in_the_access_log(caplog: pytest.LogCaptureFixture, model: str, shown: str) -> None:
    with caplog.at_level(logging.INFO):
        log_call("Predict", model, "NOT_FOUND", 0.001)
    assert caplog.messages == [f"Predict model={shown} code=NOT_FOUND ms=1.000 id=-"]


def test_every_call(serving: Serve, tmp_path: Path) -> None:
    log = "\n".join(ended_log(serving, tmp_path, "--access_log"))

    assert re.search(f"{PREDICT[1:]} model=model code=OK ms=[0-9.]+ id=[0-9a-f]{{16}}$", log, re.MULTILINE)
    assert re.search(f"{PREDICT[1:]} model=nobody code=NOT_FOUND ms=[0-9.]+ id=[0-9a-f]{{16}}$", log, re.MULTILINE)


@pytest.mark.parametrize("form", ["text", "json"])
def test_every_call_is_logged_at_any_level(serving: Serve, tmp_path: Path, form: str) -> None:
    models.linear(tmp_path / "1")
    path = f"{tmp_path}/s"
    flags = ("--log_level=error", f"--log_format={form}", f"--grpc_socket_path={path}")
    process = serving(tmp_path, "--access_log", *flags)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.unary_unary(PREDICT, PredictRequest.SerializeToString, PredictResponse.FromString)
        call(predict_request({"x": X}), timeout=START_WITHIN, wait_for_ready=True)
    process.wait_for(re.compile(f"{PREDICT[1:]} model=model code=OK"))
    process.terminate()
    process.ended()
    assert len(process.log) == 1  # no other message below the level of errors


def test_no_call_by_default(serving: Serve, tmp_path: Path) -> None:
    assert not any("code=OK" in line for line in ended_log(serving, tmp_path))


@pytest.mark.parametrize("level", ["loud", ""])
def test_an_invalid_level_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], level: str) -> None:
    with pytest.raises(SystemExit):
        main(["serve", f"--model_base_path={tmp_path}", f"--log_level={level}"])

    said = capfd.readouterr().err
    assert "--log_level" in said
    assert "debug, info, warning, error" in said

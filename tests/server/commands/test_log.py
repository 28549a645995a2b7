"""Log lines: their format, their number, and one line for each call."""

import json
import re
from datetime import datetime
from pathlib import Path

import grpc
import pytest

from headrace_protos import PredictRequest, PredictResponse
from headrace_server.commands.headrace import main
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

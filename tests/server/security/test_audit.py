"""The audit log: caller, method, model, rows and result of every call, and no request contents."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import Options
from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from headrace_server.security.gate import Gate
from headrace_server.security.keys import create_key
from headrace_server.security.visit import Visit
from tests.conftest import Run
from tests.server.security.calls import APIS, Outcome, ask_rest, methods_of, target_of
from tests.support import models
from tests.support.calls import MODEL, PREDICT, floats, predict_request, status_request
from tests.support.ports import free_port
from tests.support.running import eventually


def entries(file: Path) -> list[dict[str, Any]]:
    """All complete lines, in the order in which the calls ended."""
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return sorted(map(json.loads, lines), key=lambda entry: str(entry["ts"]))


def all_entries(file: Path, count: int) -> list[dict[str, Any]]:
    """All complete lines, once there are this many: lines of calls that end without Python come a little later."""
    eventually(lambda: len(entries(file)) >= count)
    return entries(file)


def test_every_call_is_written(running: Run, tmp_path: Path) -> None:
    file, keys, port = tmp_path / "audit.log", tmp_path / "keys.json", free_port()
    header = "Bearer " + create_key(keys, "shop")
    auth = AuthOptions(keys_file=str(keys))
    server = running(models.linear, rest_api_port=port, auth=auth, audit_log=str(file))
    target = target_of(server.port, port)

    for api in APIS:
        for method in methods_of(api):
            APIS[api](target, method, MODEL, header)
        assert APIS[api](target, "predict", "other", "Bearer wrong").outcome is Outcome.UNAUTHENTICATED

    entered = all_entries(file, 15)
    found = [(each["who"], each["method"], each["model"], each["rows"], each["code"]) for each in entered]
    assert found == [
        ("key:shop", "tensorflow.serving.PredictionService/Predict", MODEL, 1, "OK"),
        ("key:shop", "tensorflow.serving.PredictionService/GetModelMetadata", MODEL, 0, "OK"),
        ("key:shop", "tensorflow.serving.ModelService/HandleReloadConfigRequest", None, 0, "PERMISSION_DENIED"),
        (None, "tensorflow.serving.PredictionService/Predict", None, 0, "UNAUTHENTICATED"),
        ("key:shop", "inference.GRPCInferenceService/ModelInfer", MODEL, 1, "OK"),
        ("key:shop", "inference.GRPCInferenceService/ModelMetadata", None, 0, "OK"),
        ("key:shop", "inference.GRPCInferenceService/RepositoryModelLoad", MODEL, 0, "PERMISSION_DENIED"),
        (None, "inference.GRPCInferenceService/ModelInfer", None, 0, "UNAUTHENTICATED"),
        ("key:shop", "HTTP predict", MODEL, 1, "OK"),
        ("key:shop", "HTTP metadata", MODEL, 0, "OK"),
        (None, "HTTP predict", "other", 0, "UNAUTHENTICATED"),
        ("key:shop", "HTTP infer", MODEL, 1, "OK"),
        ("key:shop", "HTTP metadata", MODEL, 0, "OK"),
        ("key:shop", "HTTP admin", MODEL, 0, "PERMISSION_DENIED"),
        (None, "HTTP predict", "other", 0, "UNAUTHENTICATED"),
    ]
    assert all(each["ts"].endswith("Z") and each["ms"] >= 0 for each in entered)
    assert len({len(each["ts"]) for each in entered}) == 1
    assert header.removeprefix("Bearer ") not in file.read_text()


def test_the_file_is_for_its_owner_and_is_opened_again(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    server = running(models.linear, audit_log=str(file))
    rows = predict_request({"x": floats([1, 2, 3, 4], [5, 6, 7, 8])})

    server.caller.call(rows)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.rename(file, tmp_path / "audit.log.1")
    file.touch()
    server.caller.call(rows)
    (only,) = all_entries(file, 1)
    assert len(entries(tmp_path / "audit.log.1")) == 1
    assert (only["who"], only["rows"]) == ("anonymous", 2)
    assert only["peer"].startswith("ipv4:127.0.0.1:")


def test_a_name_cannot_forge_a_line_or_fill_the_disk(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    server = running(models.linear, audit_log=str(file))

    server.caller.refusal(predict_request({"x": floats([1, 2, 3, 4])}, name='a\n{"who": "key:admin"}' + "b" * 1000))
    (only,) = entries(file)
    assert only["code"] == "NOT_FOUND"
    assert len(only["model"]) == 256


def test_plain_calls_are_written_without_python(running: Run, tmp_path: Path, transport: str) -> None:
    file, policy, keys, port = tmp_path / "audit.log", tmp_path / "policy.toml", tmp_path / "keys.json", free_port()
    header = "Bearer " + create_key(keys, "shop")
    policy.write_text('[[rules]]\nwho = ["*"]\nrows_per_second = 10\n')
    auth = AuthOptions(keys_file=str(keys), policy_file=str(policy))
    server = running(models.linear, rest_api_port=port, auth=auth, audit_log=str(file))
    target, many = target_of(server.port, port), predict_request({"x": floats(*[[1, 2, 3, 4]] * 1000)})
    for api in APIS:
        assert APIS[api](target, "predict", MODEL, header).outcome is Outcome.OK
    before, counted = len(all_entries(file, 4)), Gate.write
    written: list[str] = []

    def noted(gate: Gate, visit: Visit, method: str, *rest: Any) -> None:
        written.append(method)
        counted(gate, visit, method, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gate, "write", noted)
        for api in APIS:
            assert APIS[api](target, "predict", MODEL, header).outcome is Outcome.OK
        assert target.grpc(PREDICT, many.SerializeToString(), header).outcome is Outcome.OK
        assert APIS["tf-serving-grpc"](target, "predict", MODEL, header).outcome is Outcome.EXHAUSTED
        entered = all_entries(file, before + 6)[before:]

    predicts = "tensorflow.serving.PredictionService/Predict"
    found = [(each["method"], each["rows"], each["code"]) for each in entered]
    assert found == [
        (predicts, 1, "OK"),
        ("inference.GRPCInferenceService/ModelInfer", 1, "OK"),
        ("HTTP predict", 1, "OK"),
        ("HTTP infer", 1, "OK"),
        (predicts, 1000, "OK"),
        (predicts, 0, "RESOURCE_EXHAUSTED"),
    ]
    assert {each["who"] for each in entered} == {"key:shop"}
    assert len(written) == (0 if transport == "native" else 6)
    assert all(str(each["peer"]).startswith("ipv4:127.0.0.1:") for each in entered if each["method"] == predicts)


def test_calls_without_an_answer_are_written(running: Run, tmp_path: Path) -> None:
    file, port = tmp_path / "audit.log", free_port()
    waits = Options(max_batch_size=4, batch_timeout_micros=30_000_000)
    server = running(models.linear, audit_log=str(file), batching=waits, rest_api_port=port, rest_api_timeout_in_ms=200)
    row, full = predict_request({"x": floats([1, 2, 3, 4])}), predict_request({"x": floats(*[[1, 2, 3, 4]] * 4)})
    for _ in range(2):
        server.caller.call(full)
    assert ask_rest(target_of(server.port, port), "predict", MODEL, "").outcome is Outcome.OTHER
    left = server.caller.begin(row)
    server.caller.call(status_request())  # on the same connection, so the Predict has arrived
    left.cancel()

    predicts = [each for each in all_entries(file, 5) if "redict" in each["method"]]
    assert [each["code"] for each in predicts] == ["OK", "OK", "DEADLINE_EXCEEDED", "CANCELLED"]


def test_lines_are_written_before_the_server_ends(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    server = running(models.linear, audit_log=str(file))
    requests = [server.caller.begin(predict_request({"x": floats([1, 2, 3, 4])})) for _ in range(500)]
    for request in requests:
        request.result()
    server.stop()
    assert len(entries(file)) == 500


def test_a_file_that_cannot_be_written(running: Run) -> None:
    with pytest.raises(ServingError, match="/no/such/folder/log: No such file"):
        running(models.linear, audit_log="/no/such/folder/log")

"""The audit log: who called what, how much and with which result, for every call, and no request contents."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from headrace_server.security.keys import create_key
from tests.conftest import Run
from tests.server.security.calls import APIS, Outcome, methods_of, target_of
from tests.support import models
from tests.support.calls import MODEL, floats, predict_request
from tests.support.ports import free_port


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_every_call_is_written_down(running: Run, tmp_path: Path) -> None:
    file, keys, port = tmp_path / "audit.log", tmp_path / "keys.json", free_port()
    header = "Bearer " + create_key(keys, "shop")
    auth = AuthOptions(keys_file=str(keys))
    server = running(models.linear, rest_api_port=port, auth=auth, audit_log=str(file))
    target = target_of(server.port, port)

    for api in APIS:
        for method in methods_of(api):
            APIS[api](target, method, MODEL, header)
        assert APIS[api](target, "predict", "other", "Bearer wrong").outcome is Outcome.UNAUTHENTICATED

    found = [(each["who"], each["method"], each["model"], each["rows"], each["code"]) for each in entries(file)]
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
        ("key:shop", "HTTP look", MODEL, 0, "OK"),
        (None, "HTTP POST predict", "other", 0, "UNAUTHENTICATED"),
        ("key:shop", "HTTP infer", MODEL, 1, "OK"),
        ("key:shop", "HTTP look", MODEL, 0, "OK"),
        ("key:shop", "HTTP POST admin", MODEL, 0, "PERMISSION_DENIED"),
        (None, "HTTP POST predict", "other", 0, "UNAUTHENTICATED"),
    ]
    assert all(each["ts"].endswith("Z") and each["ms"] >= 0 for each in entries(file))
    assert header.removeprefix("Bearer ") not in file.read_text()


def test_the_file_is_for_its_owner_and_is_opened_again(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    server = running(models.linear, audit_log=str(file))
    rows = predict_request({"x": floats([1, 2, 3, 4], [5, 6, 7, 8])})

    server.caller.call(rows)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.rename(file, tmp_path / "audit.log.1")
    server.caller.call(rows)
    assert [len(entries(each)) for each in (file, tmp_path / "audit.log.1")] == [1, 1]
    (only,) = entries(file)
    assert (only["who"], only["rows"]) == ("anonymous", 2)
    assert only["peer"].startswith("ipv4:127.0.0.1:")


def test_a_name_cannot_forge_a_line_nor_fill_the_disk(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    server = running(models.linear, audit_log=str(file))

    server.caller.refusal(predict_request({"x": floats([1, 2, 3, 4])}, name='a\n{"who": "key:admin"}' + "b" * 1000))
    (only,) = entries(file)
    assert only["code"] == "NOT_FOUND"
    assert len(only["model"]) == 256


def test_a_file_that_cannot_be_written(running: Run) -> None:
    with pytest.raises(ServingError, match="/no/such/folder/log: No such file"):
        running(models.linear, audit_log="/no/such/folder/log")

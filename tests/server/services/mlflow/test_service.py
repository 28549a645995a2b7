"""The other behaviour of MLflow's paths: health, large and malformed bodies, one output, parameters, and access."""

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from onnx.helper import make_node

from headrace_server import Config
from headrace_server.config.checks import check
from headrace_server.config.mlflow import MlflowOptions
from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from tests.conftest import Rest
from tests.support import models
from tests.support.calls import MODEL
from tests.support.graphs import FLOAT, Graph
from tests.support.rest_calls import RestCaller

SPOKEN = MlflowOptions(model=MODEL)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def caller(resting: Rest) -> RestCaller:
    return resting(models.linear, mlflow=SPOKEN)


def test_health_and_version(caller: RestCaller) -> None:
    for path in ("/ping", "/health"):
        answer = caller.get(path)
        assert (answer.status, answer.text, answer.headers["content-type"]) == (200, "\n", "application/json")
    assert caller.get("/version").text.count(".") == 2


def test_another_method(caller: RestCaller) -> None:
    assert caller.get("/invocations").status == 405
    assert caller.send("POST", "/ping").headers["allow"] == "GET, HEAD"


def test_nothing_is_answered_without_the_flag(resting: Rest) -> None:
    caller = resting(models.linear)
    for path in ("/ping", "/health", "/version", "/invocations"):
        assert caller.get(path).status == 404


def test_an_unknown_model(resting: Rest) -> None:
    caller = resting(models.linear, mlflow=MlflowOptions(model="other"))
    assert caller.get("/ping").status == 404
    answer = caller.send("POST", "/invocations", {"inputs": [[1, 2, 3, 4]]}, JSON)
    assert answer.status == 404
    assert answer.value["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert "other" in answer.value["message"]


def test_the_values_of_one_output_alone(resting: Rest) -> None:
    caller = resting(models.two_inputs, mlflow=MlflowOptions(model=MODEL, output="sum"))
    answer = caller.send("POST", "/invocations", {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}, JSON)
    assert answer.text == '{"predictions": [[4.0, 6.0]]}'


def test_an_output_that_the_model_does_not_have(resting: Rest) -> None:
    caller = resting(models.linear, mlflow=MlflowOptions(model=MODEL, output="z"))
    answer = caller.send("POST", "/invocations", {"inputs": [[1, 2, 3, 4]]}, JSON)
    assert answer.status == 500
    assert answer.value == {"error_code": "INTERNAL_ERROR", "message": "--mlflow_output must be one of y; was z"}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_large_body(caller: RestCaller, form: str) -> None:
    rows = [[float(row), 1.0, 2.0, 3.0] for row in range(20_000)]
    body = json.dumps({"inputs": rows})
    if form == "csv":
        body = "\n".join(["a,b,c,d", *(",".join(map(str, row)) for row in rows)])
    kind = {"json": "application/json", "csv": "text/csv"}[form]
    answer = caller.send("POST", "/invocations", body, {"Content-Type": kind})
    found = answer.value["predictions"]
    column = found["y"] if form == "json" else [[each["y"]] for each in found]
    assert column == [[row[0] + 6] for row in rows]


def test_a_large_body_that_is_refused(caller: RestCaller) -> None:
    answer = caller.send("POST", "/invocations", json.dumps({"inputs": [["a"] * 4] * 20_000}), JSON)
    assert answer.status == 400
    assert answer.value == {
        "error_code": "BAD_REQUEST",
        "message": "Invalid input. could not convert string to float: 'a'",
    }


def test_a_compressed_body_is_refused(caller: RestCaller) -> None:
    answer = caller.send("POST", "/invocations", b"\x1f\x8b", {**JSON, "Content-Encoding": "gzip"})
    assert (answer.status, answer.text) == (
        415,
        "This predictor only supports bodies that are not compressed. Got 'gzip'.",
    )


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": ' + "[" * 50_000,
        '{"inputs": [[1e999, 2, 3, 4]]}',
        '{"inputs": {"x": {"y": 1}}}',
        '{"inputs": null}',
        '{"instances": [{"x": [1,2,3,4]}, 7]}',
        '{"instances": []}',
        '{"dataframe_split": {"data": 7}}',
        '{"dataframe_split": {"data": [[{}]], "columns": ["x"]}}',
        '{"dataframe_split": {"data": [], "columns": 7}}',
        '{"dataframe_records": [[1]]}',
        '{"inputs": "\\ud800"}',
        b'{"inputs": "\xff"}',
    ],
)
def test_an_odd_body_is_the_callers_fault(caller: RestCaller, body: str | bytes) -> None:
    answer = caller.send("POST", "/invocations", body, JSON)
    assert answer.status in (200, 400), answer.text
    assert answer.status == 200 or set(answer.value) == {"error_code", "message"}


@pytest.mark.parametrize("body", [b"\xff\xfe", b'"', b"a\n\x00", b'"a\nb', b"a" * 200_000, b"x\n[1]\n", b"\n\n\n"])
def test_an_odd_csv_is_the_callers_fault(caller: RestCaller, body: bytes) -> None:
    answer = caller.send("POST", "/invocations", body, {"Content-Type": "text/csv"})
    assert answer.status == 400, answer.text
    assert set(answer.value) == {"error_code", "message"}


def test_strings_whole_numbers_and_booleans(resting: Rest) -> None:
    dtypes = {"s": TensorProto.STRING, "i": TensorProto.INT64, "b": TensorProto.BOOL}
    caller = resting(lambda folder: models.identities(folder, dtypes), mlflow=SPOKEN)
    answer = caller.send("POST", "/invocations", "s,i,b\none,1,True\n,2,false\n", {"Content-Type": "text/csv"})
    assert answer.status == 400  # a missing string
    answer = caller.send("POST", "/invocations", "s,i,b\none,1,True\nzwei,2,false\n", {"Content-Type": "text/csv"})
    assert answer.value == {
        "predictions": [
            {"out_s": "one", "out_i": 1, "out_b": True},
            {"out_s": "zwei", "out_i": 2, "out_b": False},
        ]
    }


def test_only_callers_with_the_right_to_predict_can_call_it(resting: Rest, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text('[[rules]]\nwho = ["anonymous"]\nmethods = ["metadata"]\n')
    caller = resting(models.linear, mlflow=SPOKEN, auth=AuthOptions(policy_file=str(tmp_path / "policy.toml")))
    assert caller.send("POST", "/invocations", {"inputs": [[1, 2, 3, 4]]}, JSON).status == 403
    assert caller.get("/ping").status == 200
    assert caller.get("/version").status == 200


@pytest.mark.parametrize(
    ("options", "port", "text"),
    [
        (MlflowOptions(model="iris"), 0, "--mlflow_model needs --rest_api_port"),
        (MlflowOptions(output="y"), 8501, "--mlflow_output needs --mlflow_model"),
    ],
)
def test_invalid_options(options: MlflowOptions, port: int, text: str) -> None:
    with pytest.raises(ServingError, match=text):
        check(Config(model_base_path="/m", rest_api_port=port, mlflow=options))


def test_params_set_inputs_that_have_defaults(resting: Rest) -> None:
    caller = resting(_scaled, mlflow=SPOKEN)
    for params, expected in (({}, 6.0), ({"scale": 5}, 15.0), ({"scale": [5.0]}, 15.0), ({"other": 5}, 6.0)):
        for inputs in ([[1, 2]], {"x": [[1, 2]]}):
            answer = caller.send("POST", "/invocations", {"inputs": inputs, "params": params}, JSON)
            assert answer.value == {"predictions": {"y": [[expected]]}}, params


def _scaled(folder: Path) -> Path:
    """`y` float [N, 1] = the sum of each row of `x` float [N, 2], times `scale` float [1], which is 2 by default."""
    nodes = [make_node("MatMul", ["x", "ones"], ["sums"]), make_node("Mul", ["sums", "scale"], ["y"])]
    inputs, outputs = {"x": (FLOAT, ("N", 2)), "scale": (FLOAT, (1,))}, {"y": (FLOAT, ("N", 1))}
    return Graph(
        nodes, inputs, outputs, {"ones": np.ones((2, 1), np.float32), "scale": np.array([2], np.float32)}
    ).write(folder)

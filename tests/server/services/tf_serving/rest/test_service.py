"""The REST API from outside: paths, correct answers, errors and their precedence."""

from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import Rest, Run
from tests.support import models
from tests.support.calls import Caller, floats
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX, RestCaller

JSON = "application/json"
SERVING = {"error_code": "OK", "error_message": ""}


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, enable_metrics=False, enable_page=False)  # TF Serving has neither


@pytest.fixture(scope="module")
def pair(resting: Rest) -> RestCaller:
    return resting(models.two_inputs)


@pytest.fixture(scope="module")
def strings(resting: Rest) -> RestCaller:
    return resting(partial(models.identity, dtype=onnx.TensorProto.STRING))


def test_rows(linear: RestCaller) -> None:
    answer = linear.post("predict", {"instances": [[1, 2, 3, 4], [0.5, 0, 0, 0]]})
    assert (answer.status, answer.text) == (200, '{\n    "predictions": [[10.0], [0.5]\n    ]\n}')
    assert answer.headers["content-type"] == JSON
    assert answer.headers["content-length"] == str(len(answer.text))
    assert answer.headers["date"].endswith(" GMT")
    assert not {"server", "content-encoding"} & answer.headers.keys()


def test_columns(linear: RestCaller) -> None:
    assert linear.predict({"inputs": [[1, 2, 3, 4]]}) == {"outputs": [[10]]}
    assert linear.predict({"inputs": {"x": [[1, 2, 3, 4]]}, "more": 1}) == {"outputs": [[10]]}


def test_several_inputs_and_outputs(pair: RestCaller) -> None:
    rows = {"instances": [{"a": [1, 2], "b": [3, 4]}, {"b": [0, 0], "a": [5, 6]}]}
    assert pair.predict(rows) == {
        "predictions": [{"sum": [4, 6], "difference": [-2, -2]}, {"sum": [5, 6], "difference": [5, 6]}]
    }
    columns = {"inputs": {"a": [[1, 2]], "b": [[3, 4]]}}
    assert pair.predict(columns) == {"outputs": {"sum": [[4, 6]], "difference": [[-2, -2]]}}


def test_strings(strings: RestCaller) -> None:
    assert strings.predict({"instances": [["é", {"b64": "YQ=="}]]}) == {"predictions": [["é", "a"]]}


def test_numbers_that_are_not_finite(resting: Rest) -> None:
    caller = resting(models.identity)
    answer = caller.post("predict", '{"instances": [[NaN, -Infinity], [1e300, 1e-300]]}')
    assert answer.text == '{\n    "predictions": [[NaN, -Infinity], [Infinity, 0.0]\n    ]\n}'


def test_whole_numbers(resting: Rest) -> None:
    caller = resting(partial(models.identity, dtype=onnx.TensorProto.INT64))
    assert caller.post("predict", '{"inputs": [[9223372036854775807, -1]]}').value == {"outputs": [[2**63 - 1, -1]]}


def test_rows_of_an_output_without_any(resting: Rest) -> None:
    caller = resting(models.scalar_output)
    text = "Tensor name: total has no shape information "
    assert caller.refusal({"instances": [[1, 2]]}) == (400, text)
    assert caller.predict({"inputs": [[1, 2]]}) == {"outputs": {"doubled": [[2, 4]], "total": 3}}


@pytest.mark.parametrize("prefix", [f"{PREFIX}/versions/1", f"{PREFIX}/VERSIONS/01", "/V1/models/%6Dodel"])
def test_versions_and_letters(linear: RestCaller, prefix: str) -> None:
    assert linear.post("predict", {"instances": [[1, 2, 3, 4]]}, prefix).value == {"predictions": [[10]]}


def test_the_requested_version_answers(resting: Rest) -> None:
    two = resting(models.linear, partial(models.linear, bias=100))
    rows = {"instances": [[1, 2, 3, 4]]}
    assert two.post("predict", rows).value == {"predictions": [[110]]}
    assert two.post("predict", rows, f"{PREFIX}/versions/2").value == {"predictions": [[110]]}


MALFORMED = [
    ("POST", f"{PREFIX}:PREDICT"),
    ("POST", f"{PREFIX}:predict?x=1"),
    ("POST", f"{PREFIX}:predict/"),
    ("POST", f"{PREFIX}:multi_inference"),
    ("POST", PREFIX),
    ("POST", f"{PREFIX}/versions/x:predict"),
    ("POST", f"{PREFIX}/versions/1/labels/a:predict"),
    ("GET", f"{PREFIX}:predict"),
    ("GET", f"{PREFIX}/"),
    ("GET", f"{PREFIX}/metadata/"),
    ("GET", "/v1/"),
    ("GET", "/v1/model"),
    ("PUT", f"{PREFIX}:predict"),
    ("DELETE", PREFIX),
    ("PATCH", PREFIX),
]


@pytest.mark.parametrize(("method", "path"), MALFORMED)
def test_malformed(linear: RestCaller, method: str, path: str) -> None:
    answer = linear.send(method, path, "{}")
    assert answer.error == (400, f"Malformed request: {method} {path}")
    assert answer.text.startswith('{\n    "error": "')
    assert answer.headers["content-type"] == JSON


def test_head_has_no_body(linear: RestCaller) -> None:
    assert linear.send("HEAD", PREFIX)[:2] == (400, "")


def test_the_query_of_a_status_request_is_part_of_the_name(linear: RestCaller) -> None:
    assert linear.get(f"{PREFIX}?x=1").error == (404, "Could not find any versions of model model?x=1")


def test_no_model(linear: RestCaller) -> None:
    assert linear.get("/v1/models").error == (400, "Missing model name in request.")
    assert linear.get("/v1/models/metadata").error == (404, "Could not find any versions of model metadata")


def test_version_over_int64(linear: RestCaller) -> None:
    answer = linear.post("predict", {}, f"{PREFIX}/versions/{2**63}")
    assert (answer.status, answer.text) == (400, "")


@pytest.mark.parametrize("path", ["/", "/v1", "/v3/models", "/monitoring/prometheus/metrics", "/metrics?x=/v1/"])
def test_other_paths(linear: RestCaller, path: str) -> None:
    answer = linear.get(path)
    assert answer.status == 404
    assert answer.headers["content-type"] == "text/html"
    assert "Not Found" in answer.text


def test_method_that_is_unknown(linear: RestCaller) -> None:
    assert linear.send("TRACE", PREFIX).status == 501


def test_status(linear: RestCaller) -> None:
    answer = linear.get(PREFIX)
    assert answer.status == 200
    assert answer.text.startswith('{\n "model_version_status": [\n  {\n   "version": "1",')
    assert answer.value == {"model_version_status": [{"version": "1", "state": "AVAILABLE", "status": SERVING}]}
    for path in (f"{PREFIX}/versions/1", f"{PREFIX}/labels/any", f"{PREFIX}/METADATA"):
        assert linear.get(path).value == answer.value


def test_the_status_of_unknown_models(linear: RestCaller) -> None:
    assert linear.get(f"{PREFIX}/versions/7").error == (404, "Could not find version 7 of model model")
    assert linear.get("/v1/models/a%2Fb%3Ac").error == (404, "Could not find any versions of model a/b:c")


def test_metadata(linear: RestCaller) -> None:
    answer = linear.get(f"{PREFIX}/metadata")
    assert answer.value["model_spec"] == {"name": "model", "signature_name": "", "version": "1"}
    signature = answer.value["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert sorted(signature) == ["defaults", "inputs", "method_name", "outputs"]
    assert signature["defaults"] == {}
    assert signature["method_name"] == "tensorflow/serving/predict"
    info = signature["inputs"]["x"]
    assert (info["name"], info["dtype"], info["tensor_shape"]["unknown_rank"]) == ("x", "DT_FLOAT", False)
    assert [dim["size"] for dim in info["tensor_shape"]["dim"]] == ["-1", "4"]
    assert linear.get("/v1/models/nobody/metadata").error == (404, "Servable not found for request: Latest(nobody)")


# Each request has several errors, and is refused for the first.
ORDER: list[tuple[str, str, int, str]] = [
    ("/v1/models/nobody", "{", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("/v1/models/nobody", "", 400, "JSON Parse error: The document is empty"),
    (
        "/v1/models/nobody",
        '{"signature_name":1}',
        400,
        'JSON Value: {\n    "signature_name": 1\n} not formatted correctly. '
        "'signature_name' key must be a string value.",
    ),
    ("/v1/models/nobody", '{"signature_name":"other"}', 404, "Servable not found for request: Latest(nobody)"),
    (f"{PREFIX}/versions/7", "{}", 404, "Servable not found for request: Specific(model, 7)"),
    (f"{PREFIX}/labels/%61", "{}", 400, "Unrecognized servable version label: a"),
    (PREFIX, '{"signature_name":"other"}', 400, 'Serving signature name: "other" not found in signature def'),
    (PREFIX, "{}", 400, "Missing 'inputs' or 'instances' key"),
]


@pytest.mark.parametrize(("prefix", "body", "status", "text"), ORDER)
def test_order_of_refusals(linear: RestCaller, prefix: str, body: str, status: int, text: str) -> None:
    assert linear.post("predict", body, prefix).error == (status, text)


def test_signature_without_inputs(resting: Rest) -> None:
    text = "Failed to get input map for signature: DEFAULT"
    assert resting(models.no_inputs).refusal({"instances": [1]}) == (400, text)


def test_dtypes_that_json_cannot_express(resting: Rest) -> None:
    caller = resting(partial(models.identity, dtype=onnx.TensorProto.FLOAT16))
    assert caller.refusal({"inputs": [[1, 2]]}) == (501, "Conversion of JSON Value: 1 to type: half")


def test_inputs_that_the_model_refuses(resting: Rest) -> None:
    status, text = resting(models.lookup).refusal({"instances": [10]})
    assert status == 400
    assert "indices element out of data bounds, idx=10" in text


def test_same_batches_as_grpc(running: Run) -> None:
    port = free_port()
    grpc: Caller = running(models.linear, rest_api_port=port).caller
    rest = RestCaller(port)
    assert rest.predict({"instances": [[1, 2, 3, 4]]}) == {"predictions": [[10]]}
    assert grpc.predict({"x": floats([1, 2, 3, 4])})["y"].tolist() == [[10]]
    rest.close()


def test_classify(resting: Rest) -> None:
    caller = resting(scores)
    examples = {"examples": [{"x": [1.0, 2.0]}, {"x": [0.5, 0.25]}]}
    answer = caller.post("classify", examples)
    assert answer.text == '{\n    "results": [[["", 1.0], ["", 2.0]], [["", 0.5], ["", 0.25]]\n    ]\n}'
    assert caller.post("classify", {"context": {"x": [3.0, 4.0]}, "examples": [{}]}).value == {
        "results": [[["", 3], ["", 4]]]
    }
    status, text = caller.refusal({"examples": [{"x": [1, 2]}]}, "classify")
    assert status == 400
    assert "Data types don't match. Data type: int64 but expected type: float" in text
    assert caller.refusal({"signature_name": "other", "examples": [{}]}, "classify") == (
        400,
        "No signature was found with the name: other",
    )
    assert caller.refusal({"examples": []}, "classify")[0] == 400


def test_regress(resting: Rest) -> None:
    caller = resting(models.linear)
    answer = caller.post("regress", {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]})
    assert answer.text == '{\n    "results": [10.0]\n}'
    assert caller.post("regress", "[]").error == (400, "JSON Value: [] Is not object")


def test_time_limit(resting: Rest) -> None:
    caller = resting(models.counting, rest_api_timeout_in_ms=100)
    assert caller.refusal({"instances": [500_000]}) == (504, "Timed out waiting for notification")
    assert caller.predict({"instances": [3]}) == {"predictions": [3]}


def test_metrics(resting: Rest, tmp_path: Path) -> None:
    file = tmp_path / "monitoring"
    file.write_text("prometheus_config { enable: true }")
    caller = resting(models.linear, monitoring_config_file=str(file))
    caller.predict({"instances": [[1, 2, 3, 4]]})
    caller.refusal("{")
    caller.get(PREFIX)
    caller.send("OPTIONS", PREFIX, headers={"Origin": "http://example.com"})
    caller.send("OPTIONS", PREFIX)
    page = caller.get("/monitoring/prometheus/metrics")
    assert (page.status, page.headers["content-type"]) == (200, "text/plain")
    assert ':tensorflow:serving:request_count{model_name="model",status="OK"} 2\n' in page.text
    assert ':tensorflow:serving:request_count{model_name="model",status="INVALID_ARGUMENT"} 1\n' in page.text
    assert ':tensorflow:serving:request_count{model_name="",status="OK"} 1\n' in page.text
    assert ':tensorflow:serving:request_count{model_name="",status="FAILED_PRECONDITION"} 1\n' in page.text
    latency = ':tensorflow:serving:request_latency_count{model_name="model",API="%s",entrypoint="REST"} 1\n'
    assert latency % "predict" in page.text
    assert latency % "" in page.text
    wrong = caller.send("POST", "/monitoring/prometheus/metrics?x=1")
    assert (wrong.status, wrong.headers["content-type"]) == (400, "text/plain")
    assert wrong.text == (
        "Unexpected path: /monitoring/prometheus/metrics?x=1. Should be /monitoring/prometheus/metrics"
    )


@pytest.mark.parametrize("cors", [True, False])
def test_cors(resting: Rest, cors: bool) -> None:
    caller = resting(models.linear, rest_api_enable_cors_support=cors)
    names = ("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers")
    expected = ("*", "POST, GET", "Content-Type") if cors else (None, None, None)

    def headers(answer: Any) -> tuple[str | None, ...]:
        return tuple(answer.headers.get(name) for name in names)

    for answer in (caller.get(PREFIX), caller.post("predict", "{"), caller.get("/v1/nothing")):
        assert headers(answer) == expected
    assert headers(caller.get("/")) == (None, None, None)
    allowed = caller.send("OPTIONS", f"{PREFIX}:predict", headers={"Origin": "https://example.com"})
    assert (allowed.status, allowed.text, headers(allowed)) == (200, "", expected)
    assert "content-type" not in allowed.headers
    for origin in ({}, {"Origin": "example.com"}):
        refused = caller.send("OPTIONS", PREFIX, headers=origin)
        assert (refused.status, refused.text, headers(refused)) == (400, "", expected)


def scores(folder: Path) -> Path:
    """Answers two features with two scores."""
    return models.identity(folder)

"""The curl command reaches every URL of the REST API, by each of a model's names."""

import gzip
import json
from typing import Any

import pytest

from tests.interop.conftest import VERSIONS, TwoModels
from tests.support.rest_calls import curl

MODEL = "/v1/models/sums"
METRICS = "/monitoring/prometheus/metrics"
INSTANCES = '{"instances": [[1, 2, 3, 4]]}'
EXAMPLES = '{"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]}'

# The URL parts that may follow the model's name, and the version that each selects.
NAMES = {"": 3, "/versions/1": 1, "/VERSIONS/002": 2, "/labels/stable": 1, "/labels/a%2Fb%3Ac": 2}

# Further arguments of curl, a path, the status, and a part of the answer.
ASIDE: list[tuple[list[str], str, int, str]] = [
    (["-d", INSTANCES], f"{MODEL}/labels/none:predict", 400, "Unrecognized servable version label: none"),
    (["-d", INSTANCES], f"{MODEL}/versions/9:predict", 404, "Servable not found for request: Specific(sums, 9)"),
    (["-d", EXAMPLES], "/v1/models/nobody:classify", 404, "Servable not found for request: Latest(nobody)"),
    (["-d", "{"], f"{MODEL}:regress", 400, "JSON Parse error: Missing a name for object member. at offset: 1"),
    (["-d", ""], f"{MODEL}:PREDICT", 400, f"Malformed request: POST {MODEL}:PREDICT"),
    (["-d", INSTANCES], f"{MODEL}:predict?x=1", 400, f"Malformed request: POST {MODEL}:predict?x=1"),
    (["-d", INSTANCES], f"{MODEL}:multi_inference", 400, f"Malformed request: POST {MODEL}:multi_inference"),
    (["-X", "DELETE"], MODEL, 400, f"Malformed request: DELETE {MODEL}"),
    (["-X", "TRACE"], MODEL, 501, "Not Implemented"),
    ([], f"{MODEL}/", 400, f"Malformed request: GET {MODEL}/"),
    ([], f"{MODEL}/versions/9", 404, "Could not find version 9 of model sums"),
    ([], "/v1/models/nobody", 404, "Could not find any versions of model nobody"),
    ([], "/v1/models/nobody/metadata", 404, "Servable not found for request: Latest(nobody)"),
    ([], "/v1/models", 400, "Missing model name in request."),
    ([], "/v3", 404, "Not Found"),
    ([], METRICS, 200, ":tensorflow:serving:request_count{"),
    ([], f"{METRICS}?x=1", 400, f"Unexpected path: {METRICS}?x=1. Should be {METRICS}"),
]


def ask(served: TwoModels, path: str, *arguments: str, data: bytes = b"") -> tuple[int, str]:
    """The status and the body of one answer."""
    answer = curl(*arguments, "-w", "\n%{http_code}", f"http://127.0.0.1:{served.rest_port}{path}", data=data)
    body, _, status = answer.rpartition("\n")
    return int(status), body


def value(served: TwoModels, path: str, *arguments: str, data: bytes = b"") -> Any:
    """The JSON value of an answer with status 200."""
    status, body = ask(served, path, *arguments, data=data)
    assert status == 200, body
    return json.loads(body)


@pytest.mark.parametrize(("name", "version"), NAMES.items())
def test_every_call_by_every_name(two_models: TwoModels, name: str, version: int) -> None:
    total = 10 + 100 * version
    model = MODEL + name
    assert value(two_models, f"{model}:predict", "-d", INSTANCES) == {"predictions": [[total]]}
    assert value(two_models, f"{model}:predict", "-d", '{"inputs": [[1, 2, 3, 4]]}') == {"outputs": [[total]]}
    assert value(two_models, f"{model}:classify", "-d", EXAMPLES) == {"results": [[["", total]]]}
    assert value(two_models, f"{model}:regress", "-d", EXAMPLES) == {"results": [total]}
    metadata = value(two_models, f"{model}/metadata")
    assert metadata["model_spec"] == {"name": "sums", "signature_name": "", "version": str(version)}
    assert list(metadata["metadata"]["signature_def"]["signature_def"]) == ["serving_default"]


@pytest.mark.parametrize("name", NAMES)
def test_status_by_every_name(two_models: TwoModels, name: str) -> None:
    """A label is ignored here: TF Serving answers with all versions."""
    listed = [NAMES[name]] if "versions" in name.lower() else sorted(VERSIONS, reverse=True)
    assert value(two_models, MODEL + name)["model_version_status"] == [
        {"version": str(version), "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        for version in listed
    ]


def test_signatures_by_their_names(two_models: TwoModels) -> None:
    features = '"examples": [{"age": 1, "weights": [0.5, 1.5]}]'
    tariff = "/v1/models/tariff"
    assert value(two_models, f"{tariff}:classify", "-d", f'{{"signature_name": "classify", {features}}}') == {
        "results": [[["lo", 1.5], ["hi", 2.5]]]
    }
    assert value(two_models, f"{tariff}:regress", "-d", f'{{"signature_name": "regress", {features}}}') == {
        "results": [4]
    }
    rows = '{"instances": [{"age": 1, "weights": [0.5, 1.5]}]}'
    assert value(two_models, f"{tariff}:predict", "-d", rows) == {"predictions": [{"scores": [1.5, 2.5], "price": [4]}]}


@pytest.mark.parametrize(("arguments", "path", "status", "text"), ASIDE)
def test_refused_requests_and_other_pages(
    two_models: TwoModels, arguments: list[str], path: str, status: int, text: str
) -> None:
    answer = ask(two_models, path, *arguments)
    assert answer[0] == status, answer
    assert text in answer[1]


def test_compressed_body(two_models: TwoModels) -> None:
    body = gzip.compress(INSTANCES.encode())
    answer = value(two_models, f"{MODEL}:predict", "-H", "Content-Encoding: gzip", "--data-binary", "@-", data=body)
    assert answer == {"predictions": [[310]]}


def test_version_over_int64(two_models: TwoModels) -> None:
    assert ask(two_models, f"{MODEL}/versions/{2**63}:predict", "-d", INSTANCES) == (400, "")


def test_the_preflight_request_of_a_browser(two_models: TwoModels) -> None:
    status, answer = ask(two_models, f"{MODEL}:predict", "-i", "-X", "OPTIONS", "-H", "Origin: https://example.com")
    assert status == 200
    headers = answer.lower().splitlines()
    assert "access-control-allow-origin: *" in headers
    assert "access-control-allow-methods: post, get" in headers
    assert "access-control-allow-headers: content-type" in headers
    assert ask(two_models, MODEL, "-X", "OPTIONS") == (400, "")

"""ghz and grpcurl, which learn the API by server reflection only."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Run
from tests.support import models

CALLS = 10_000
CONCURRENCY = 50

REQUEST = {
    "model_spec": {"name": "model"},
    "inputs": {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": 1}, {"size": 4}]},
            "float_val": [1, 2, 3, 4],
        }
    },
}


@pytest.fixture(scope="module")
def address(running: Run) -> str:
    return f"127.0.0.1:{running(models.linear).port}"


def output(*command: str | Path) -> str:
    """The output of a command, which must succeed."""
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_ghz_load_without_an_error(ghz: Path, address: str) -> None:
    load = [f"--total={CALLS}", f"--concurrency={CONCURRENCY}", "--insecure", "--format=json", "--timeout=20s"]
    call = ["--call=tensorflow.serving.PredictionService/Predict", f"--data={json.dumps(REQUEST)}"]
    report = json.loads(output(ghz, *load, *call, address))
    assert report["count"] == CALLS
    assert report["statusCodeDistribution"] == {"OK": CALLS}


def test_grpcurl_lists_services_and_methods(grpcurl: Path, address: str) -> None:
    services = output(grpcurl, "-plaintext", address, "list").split()
    assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= set(services)
    methods = output(grpcurl, "-plaintext", address, "list", "tensorflow.serving.PredictionService").split()
    assert "tensorflow.serving.PredictionService.Predict" in methods


def test_grpcurl_describes_messages(grpcurl: Path, address: str) -> None:
    request = output(grpcurl, "-plaintext", address, "describe", "tensorflow.serving.PredictRequest")
    assert "map<string, .tensorflow.TensorProto> inputs = 2" in request
    assert "bytes tensor_content = 4" in output(grpcurl, "-plaintext", address, "describe", "tensorflow.TensorProto")


def test_grpcurl_predicts(grpcurl: Path, address: str) -> None:
    data = f"-d={json.dumps(REQUEST)}"
    answer: dict[str, Any] = json.loads(
        output(grpcurl, "-plaintext", data, address, "tensorflow.serving.PredictionService/Predict")
    )
    assert answer["outputs"]["y"]["float_val"] == [10]
    assert answer["model_spec"]["version"] == "1"


def test_grpcurl_reads_metadata(grpcurl: Path, address: str) -> None:
    """The answer contains an Any, whose message type grpcurl looks up by reflection."""
    data = f"-d={json.dumps({'model_spec': {'name': 'model'}, 'metadata_field': ['signature_def']})}"
    answer = json.loads(
        output(grpcurl, "-plaintext", data, address, "tensorflow.serving.PredictionService/GetModelMetadata")
    )
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"

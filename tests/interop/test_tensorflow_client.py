"""Programs written for TensorFlow Serving, with its own message package, work unchanged; one sends tf.Examples."""

import json
import subprocess
from functools import partial
from pathlib import Path

from onnx import TensorProto

from tests.conftest import ROOT, Run
from tests.interop.conftest import SIGNATURES, TwoModels
from tests.support import feature_models, models

CLIENT = "tests.interop.tensorflow_client"

# The name of each dtype in TensorFlow and in ONNX.
DTYPES = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int8": TensorProto.INT8,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "uint16": TensorProto.UINT16,
    "uint32": TensorProto.UINT32,
    "uint64": TensorProto.UINT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
}


def test_program_with_tensorflow_serving_api(running: Run, two_models: TwoModels, tensorflow_python: Path) -> None:
    ports = {name: running(partial(models.identity, dtype=dtype)).port for name, dtype in DTYPES.items()}
    ports |= {"linear": running(models.linear).port, "two_models": two_models.port}
    ports["tariff"] = running(partial(feature_models.tariff, signatures=SIGNATURES)).port
    client = [str(tensorflow_python), "-m", CLIENT, json.dumps(ports), str(two_models.root)]
    ended = subprocess.run(client, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr

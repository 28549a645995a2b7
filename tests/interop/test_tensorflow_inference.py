"""Programs that send tf.Examples with TensorFlow Serving's own message package work unchanged."""

import subprocess
from functools import partial
from pathlib import Path

from tests.conftest import Run
from tests.interop.conftest import SIGNATURES
from tests.support import feature_models

CLIENT = Path(__file__).with_name("tensorflow_inference.py")


def test_program_with_tensorflow_serving_api(running: Run, tensorflow_python: Path) -> None:
    port = running(partial(feature_models.tariff, signatures=SIGNATURES)).port
    client = [str(tensorflow_python), str(CLIENT), str(port)]
    ended = subprocess.run(client, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr

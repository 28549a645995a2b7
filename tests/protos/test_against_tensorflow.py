"""TensorFlow's own runtime decodes and encodes as headrace does."""

import json
import subprocess
from pathlib import Path


def test_tensors_are_decoded_and_encoded_as_by_tensorflow(tensorflow_python: Path) -> None:
    script = Path(__file__).with_name("compare_tensors.py")
    run = subprocess.run([tensorflow_python, script], capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert report["differences"] == []
    for kind in ("decoded", "decoded, refused", "encoded", "made into an array", "made into a message"):
        assert report["counts"][kind] > 200, kind

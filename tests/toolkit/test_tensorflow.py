"""Keras models, SavedModels and TFLite files give the same answers in ONNX, under names that people chose."""

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LARGEST = {"float": 1e-4, "dynamic": 0.1, "half": 0.01, "int8": 0.1}
"""How far probabilities may be from the source's, by the form of the TFLite file."""

KINDS = {"model.keras": "keras", "model.h5": "keras", "saved_model": "savedmodel", "model.tflite": "tflite"}


@pytest.mark.skipif(
    not os.environ.get("HEADRACE_TEST_KERAS"), reason="imports TensorFlow five times: make test-keras runs it"
)
def test_one_model_in_four_formats(tensorflow_python: Path, tmp_path: Path) -> None:
    has = subprocess.run([tensorflow_python, "-c", "import tf2onnx"], capture_output=True, check=False)
    if has.returncode:
        pytest.skip(f"{tensorflow_python} has no tf2onnx: run scripts/install-tensorflow")
    command = [str(tensorflow_python), "-m", "tests.toolkit.convert_tensorflow", str(tmp_path)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name, kind in KINDS.items():
        result = found[name]
        assert result["kind"] == kind
        assert result["largest_difference"] < 1e-4, name
        assert result["agreement"] == 1.0
        assert result["rows"] == "independent"
        assert result["inputs"] == ["image"], name
    assert found["model.keras"]["outputs"] == ["digit"]
    assert set(found["forms"]) == set(LARGEST)
    for form, result in found["forms"].items():
        assert result["largest_difference"] <= LARGEST[form], form
        assert result["served_difference"] <= LARGEST[form], form
        assert result["files"] == ["card.json", "model.tflite", "profile.json"]
        assert result["inputs"] == ["image"], form
        assert result["outputs"] == (["output_0"] if form == "half" else ["digit"])
        assert result["batched"], form
        assert result["rows"] == "independent", form
    size = found["forms"]["float"]["bytes"]
    assert all(result["bytes"] < size for form, result in found["forms"].items() if form != "float")

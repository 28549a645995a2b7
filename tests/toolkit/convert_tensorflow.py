"""Writes one small Keras model in four formats, converts each to ONNX and TFLite, and prints how far answers differ."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from headrace_server.backends.base import BackendOptions
from headrace_server.backends.tflite_impl import load_tflite
from headrace_toolkit import Data, convert, load
from headrace_toolkit.to_tflite import FORMS, convert_to_tflite


def main(folder: Path) -> None:
    """Writes models into a folder and converts them; prints the results by file name, as JSON."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Flatten()(keras.layers.Conv2D(8, 3, activation="relu")(image))
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="digit")(hidden))
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.export(folder / "saved_model", verbose=False)
    lite = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model")).convert()
    (folder / "model.tflite").write_bytes(lite)
    rows = Data("rows", "", {"image": np.random.default_rng(0).random((40, 8, 8, 1)).astype(np.float32)})
    found: dict[str, object] = {}
    for name in ("model.keras", "model.h5", "saved_model", "model.tflite"):
        result = convert(load(folder / name), rows)
        found[name] = {
            "kind": result.report.source.kind,
            "largest_difference": result.report.lines[1].largest_difference,
            "agreement": result.report.lines[1].agreement,
            "inputs": list(result.signature.inputs),
            "outputs": list(result.signature.outputs),
            "rows": result.rows_verdict.finding,
        }
    found["forms"] = {name: _form(folder, name, rows) for name in FORMS}
    print(json.dumps(found))


def _form(folder: Path, form: str, rows: Data) -> dict[str, object]:
    """The result of a conversion to TFLite, and the answers of the published file in headrace's own backend."""
    result = convert_to_tflite(load(folder / ("saved_model" if form == "half" else "model.keras")), rows, form)
    last = result.report.lines[-1]
    version = result.publish(folder / "lite")
    backend = load_tflite(version / "model.tflite", BackendOptions())
    signature = backend.signatures["serving_default"]
    kept = {name: array[:3] for name, array in result.grounds.measured.inputs.items()}
    served = backend.run("serving_default", kept, list(signature.outputs))
    (expected,) = (array[:3] for array in result.grounds.expected.values())
    return {
        "files": sorted(file.name for file in version.iterdir()),
        "bytes": last.bytes,
        "largest_difference": last.largest_difference,
        "inputs": list(signature.inputs),
        "outputs": list(signature.outputs),
        "batched": signature.batched,
        "rows": result.rows_verdict.finding,
        "served_difference": float(np.abs(next(iter(served.values())) - expected).max()),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))

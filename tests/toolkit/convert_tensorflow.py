"""Makes one small Keras model in four formats, converts each, and prints how far the ONNX answers are from its own."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from headrace_toolkit import Data, convert, load


def main(folder: Path) -> None:
    """Works in a folder; prints JSON by file name."""
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
    found = {}
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
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

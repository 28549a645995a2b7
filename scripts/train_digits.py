#!/usr/bin/env python3
"""Trains the digits model of models/digits, and stores the images that it was not trained on (needs `.[dev,train]`)."""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

MODEL = Path(__file__).resolve().parents[1] / "models" / "digits"
SEED = 0
HELD_OUT = 360
OPSETS = {"": 17, "ai.onnx.ml": 3}


def train(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Pipeline:
    """Fits a 64-128-10 perceptron to `images`, float32 [n, 64] of values 0 to 16."""
    network = MLPClassifier((128,), alpha=1.0, max_iter=1000, random_state=SEED)
    return make_pipeline(StandardScaler(), network).fit(images, labels)


def convert(model: Pipeline) -> onnx.ModelProto:
    """Makes the graph: image float32 [N, 64] to label int64 [N] and probabilities float32 [N, 10]."""
    image = [("image", FloatTensorType([None, 64]))]
    graph: onnx.ModelProto = to_onnx(
        model, initial_types=image, options={"zipmap": False}, target_opset=OPSETS, name="digits"
    )
    return graph


def main() -> None:
    """Writes `1/model.onnx` and `held_out.npz` under models/digits."""
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(pixels, digits, test_size=HELD_OUT, stratify=digits, random_state=SEED)
    images, held_out, labels, held_out_labels = split
    model = convert(train(images.astype(np.float32), labels))
    onnx.checker.check_model(model, full_check=True)
    (MODEL / "1").mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, MODEL / "1" / "model.onnx")
    kept = {"images": held_out.astype(np.uint8).reshape(-1, 8, 8), "labels": held_out_labels.astype(np.uint8)}
    np.savez_compressed(MODEL / "held_out.npz", **kept)


if __name__ == "__main__":
    main()

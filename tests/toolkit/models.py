"""Models of scikit-learn's handwritten digits, trained in seconds without a deep learning framework.

All layers except the last are random and fixed; the last one is fitted by ridge regression to their outputs. That is
enough to recognise 95% of the digits, with the operators and sizes of real networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits

from headrace_batching.task import Array

TRAIN_ROWS = 1257
"""The number of digits for training, of 1,797; the other 540 are for testing."""


RIDGE = 30.0
"""The strength of the ridge regularization of the last layer."""


@dataclass(frozen=True)
class Digits:
    """Pixels from 0 to 1, and digits.

    Attributes:
        train_x: float32 [1257, 64].
        train_y: int64 [1257].
        test_x: float32 [540, 64].
        test_y: int64 [540].
    """

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array

    def save(self, folder: Path, name: str, shape: Sequence[int] = (64,), zoom: int = 1) -> tuple[Path, Path]:
        """Writes `train.npz` and `test.npz` with the pixels under `name` and the digits under `y`.

        Args:
            folder: The folder for the files.
            name: The name of the model's input.
            shape: The shape of a row.
            zoom: The factor by which each pixel is enlarged.
        """
        files = folder / "train.npz", folder / "test.npz"
        for file, x, y in zip(files, (self.train_x, self.test_x), (self.train_y, self.test_y), strict=True):
            arrays: dict[str, Any] = {name: pictures(x, shape, zoom), "y": y}
            np.savez(file, **arrays)
        return files


def pictures(pixels: Array, shape: Sequence[int], zoom: int = 1) -> Array:
    """Rows of 64 pixels in a shape, with each pixel enlarged by `zoom`."""
    shaped = pixels.reshape(-1, *shape)
    return shaped if zoom == 1 else shaped.repeat(zoom, 2).repeat(zoom, 3)


@cache
def digits() -> Digits:
    """The digits, split at random, always in the same way."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(pixels))
    x, y = (pixels[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    return Digits(x[:TRAIN_ROWS], y[:TRAIN_ROWS], x[TRAIN_ROWS:], y[TRAIN_ROWS:])


@dataclass
class Graph:
    """An ONNX graph of one input and one output, built node by node."""

    shape: Sequence[int | str]
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    last: str = "x"

    def add(self, kind: str, *weights: Array, beside: str = "", **attributes: Any) -> str:
        """Adds an operator after the last one; returns the name of its output."""
        names = []
        for weight in weights:
            names.append(f"w{len(self.weights)}")
            self.weights.append(numpy_helper.from_array(weight, names[-1]))
        output = f"v{len(self.nodes)}"
        inputs = [self.last, *([beside] if beside else []), *names]
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"{kind}_{len(self.nodes)}", **attributes))
        self.last = output
        return output

    def conv(self, random: np.random.Generator, before: int, after: int, *, groups: int = 1, size: int = 3) -> str:
        """Adds a convolution with random filters that keeps the picture's size, and a ReLU."""
        fan_in = before // groups * size * size
        weight = (random.standard_normal((after, before // groups, size, size)) * (2 / fan_in) ** 0.5).astype(
            np.float32
        )
        self.add("Conv", weight, np.zeros(after, np.float32), pads=[size // 2] * 4, group=groups)
        return self.add("Relu")

    def model(self, columns: int | str, *, output: str = "logits") -> onnx.ModelProto:
        """The model whose output is the last added operator's, [N, columns]."""
        nodes = (
            [*self.nodes, helper.make_node("Identity", [self.last], [output])]
            if output not in self.last
            else self.nodes
        )
        graph = helper.make_graph(
            nodes, "digits",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", columns])],
            self.weights,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(made)
        return made


def mlp(file: Path, width: int = 512) -> Path:
    """Writes a perceptron 64-width-width-10 with ReLU: `x` float32 [N, 64] to `logits` float32 [N, 10]."""
    random, graph = np.random.default_rng(4), Graph(["N", 64])
    for before in (64, width):
        weight = (random.standard_normal((before, width)) * (2 / before) ** 0.5).astype(np.float32)
        graph.add("Gemm", weight, random.standard_normal(width).astype(np.float32) / 10)
        graph.add("Relu")
    return _with_head(graph, file, (64,))


def cnn(file: Path) -> Path:
    """Writes three convolutions and a linear layer: `x` float32 [N, 1, 8, 8] to `logits` float32 [N, 10]."""
    random, graph = np.random.default_rng(1), Graph(["N", 1, 8, 8])
    graph.conv(random, 1, 32)
    graph.conv(random, 32, 64)
    graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    graph.conv(random, 64, 64)
    graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    return _with_head(graph, file, (1, 8, 8))


def residual(file: Path) -> Path:
    """Writes two residual blocks: `x` float32 [N, 1, 16, 16], each pixel four times, to `logits` float32 [N, 10]."""
    random, graph = np.random.default_rng(2), Graph(["N", 1, 16, 16])
    before = graph.conv(random, 1, 32)
    for _ in range(2):
        graph.conv(random, 32, 32)
        graph.conv(random, 32, 32)
        graph.add("Add", beside=before)
        before = graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    return _with_head(graph, file, (1, 8, 8), zoom=2)


def mobile(file: Path) -> Path:
    """Writes depthwise-separable convolutions: `x` float32 [N, 1, 16, 16] to `logits` float32 [N, 10]."""
    random, graph = np.random.default_rng(3), Graph(["N", 1, 16, 16])
    graph.conv(random, 1, 32)
    for channels in (32, 64):
        graph.conv(random, channels, channels, groups=channels)
        graph.conv(random, channels, 64, size=1)
        graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    return _with_head(graph, file, (1, 8, 8), zoom=2)


def _with_head(graph: Graph, file: Path, shape: Sequence[int], zoom: int = 1) -> Path:
    """Fits a linear layer to the graph's outputs for the training digits, and writes the model."""
    held = digits()
    graph.add("Flatten")
    session = ort.InferenceSession(graph.model("K").SerializeToString(), providers=["CPUExecutionProvider"])
    features = session.run(None, {"x": pictures(held.train_x, shape, zoom)})[0].astype(np.float64)
    middle, spread = features.mean(0), features.std() or 1.0
    centred = (features - middle) / spread
    wanted = np.where(held.train_y[:, None] == np.arange(10), 1.0, -1.0)
    # Ridge regression has a closed-form solution, so no iteration is needed.
    weight = np.linalg.solve(centred.T @ centred + RIDGE * np.eye(centred.shape[1]), centred.T @ wanted) / spread
    graph.add("Gemm", weight.astype(np.float32), (wanted.mean(0) - middle @ weight).astype(np.float32))
    onnx.save(graph.model(10), file)
    return file

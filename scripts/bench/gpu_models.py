"""The models measured on GPUs: dense layers, and ResNet-50 with random weights and images of bytes."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_OPSET = 17
_IR_VERSION = 8
_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, inner channels, stride of the first


def mlp_model(width: int = 1024, layers: int = 3) -> onnx.ModelProto:
    """Returns a model of 64 floats to 10, with dense layers."""
    graph = _Graph()
    name = "x"
    sizes = [64, *[width] * layers]
    for last, size in pairwise(sizes):
        name = graph.relu(graph.gemm(name, last, size))
    graph.gemm(name, width, 10, "y")
    return graph.model(TensorProto.FLOAT, [64], [10])


def resnet50_model() -> onnx.ModelProto:
    """Returns a model of a 3 x 224 x 224 image of bytes to 1000 scores: 53 convolutions, 4.1 billion multiplications.

    Batch normalisation is folded into the weights, as in models exported for serving.
    """
    graph = _Graph()
    pixels = graph.add("Div", [graph.add("Cast", ["x"], to=TensorProto.FLOAT), graph.weight(np.float32(128))])
    name = graph.relu(graph.conv(pixels, 3, 64, kernel=7, stride=2))
    name = graph.add("MaxPool", [name], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for blocks, inner, stride in _STAGES:
        for block in range(blocks):
            name = graph.bottleneck(name, channels, inner, stride if block == 0 else 1)
            channels = 4 * inner
    graph.gemm(graph.add("Flatten", [graph.add("GlobalAveragePool", [name])], axis=1), channels, 1000, "y")
    return graph.model(TensorProto.UINT8, [3, 224, 224], [1000])


@dataclass
class _Graph:
    nodes: list[NodeProto] = field(default_factory=list)
    weights: list[TensorProto] = field(default_factory=list)

    def add(self, operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def weight(self, values: np.ndarray | np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def random(self, shape: tuple[int, ...], fan_in: int, gain: float = 2.0) -> str:
        """Weights that keep the values of a ReLU network of any depth away from zero and infinity."""
        values = np.random.default_rng(len(self.weights)).standard_normal(shape, np.float32)
        return self.weight(values * np.float32(np.sqrt(gain / fan_in)))

    def relu(self, name: str) -> str:
        return self.add("Relu", [name])

    def gemm(self, name: str, inputs: int, outputs: int, output: str = "") -> str:
        bias = self.weight(np.zeros(outputs, np.float32))
        return self.add("Gemm", [name, self.random((inputs, outputs), inputs), bias], output)

    def conv(self, name: str, inputs: int, outputs: int, *, kernel: int = 1, stride: int = 1, gain: float = 2.0) -> str:
        weights = self.random((outputs, inputs, kernel, kernel), inputs * kernel * kernel, gain)
        bias = self.weight(np.zeros(outputs, np.float32))
        return self.add("Conv", [name, weights, bias], strides=[stride] * 2, pads=[kernel // 2] * 4)

    def bottleneck(self, name: str, channels: int, inner: int, stride: int) -> str:
        inside = self.relu(self.conv(name, channels, inner))
        inside = self.relu(self.conv(inside, inner, inner, kernel=3, stride=stride))
        inside = self.conv(inside, inner, 4 * inner, gain=0.2)
        if channels != 4 * inner or stride != 1:
            name = self.conv(name, channels, 4 * inner, stride=stride, gain=1.0)
        return self.relu(self.add("Add", [inside, name]))

    def model(self, kind: int, row: list[int], output: list[int]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "measured",
            [helper.make_tensor_value_info("x", kind, ["batch", *row])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", *output])],
            self.weights,
        )
        opset = helper.make_opsetid("", _OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)

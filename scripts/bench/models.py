"""The measured models, built with onnx.helper: small, image and compute-bound."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# An opset that all ONNX Runtime releases of recent years can read.
_OPSET = 17
_IR_VERSION = 8


def small_model() -> onnx.ModelProto:
    """Returns a model of 16 floats to 10, with one Gemm."""
    weights = {"w": _weights(16, 10), "b": np.zeros(10, np.float32)}
    return _model([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], [16], [10], weights)


def string_model() -> onnx.ModelProto:
    """Returns a model of two strings to the same strings."""
    return _model([helper.make_node("Identity", ["x"], ["y"])], [2], [2], {}, TensorProto.STRING)


def fixed_model() -> onnx.ModelProto:
    """Returns a model of 16 floats to 10, without a batch axis."""
    model = small_model()
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[0]
    model.graph.node[0].CopyFrom(helper.make_node("MatMul", ["x", "w"], ["y"]))
    del model.graph.initializer[1]
    return model


def image_model() -> onnx.ModelProto:
    """Returns a model of a 3 x 224 x 224 image of floats to the means of its three channels."""
    pool = helper.make_node("GlobalAveragePool", ["x"], ["pooled"])
    flatten = helper.make_node("Flatten", ["pooled"], ["y"], axis=1)
    return _model([pool, flatten], [3, 224, 224], [3], {})


def compute_model(layers: int = 5, channels: int = 128) -> onnx.ModelProto:
    """Returns a model of a 3 x 32 x 32 image of floats to 10 scores: 3 x 3 convolutions of about 10 ms a row.

    Convolutions cost the same per row in a batch of any size, while dense layers mostly read their weights.
    """
    names = ["x", *(f"h{i}" for i in range(1, layers + 1))]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("Conv", [names[i], f"w{i}"], [f"z{i}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"z{i}"], [names[i + 1]]))
    nodes.append(helper.make_node("GlobalAveragePool", [names[-1]], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], axis=1))
    nodes.append(helper.make_node("MatMul", ["features", "scores"], ["y"]))
    weights = {
        f"w{i}": _weights(9 * width, channels, seed=i).T.reshape(channels, width, 3, 3).copy()
        for i, width in enumerate([3] + [channels] * (layers - 1))
    }
    return _model(nodes, [3, 32, 32], [10], weights | {"scores": _weights(channels, 10)})


def _weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    # Scaled so that a ReLU network of any depth keeps its activations away from zero and infinity.
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32) * np.float32(np.sqrt(2 / rows))


def _model(
    nodes: list[onnx.NodeProto],
    row: list[int],
    output: list[int],
    weights: dict[str, np.ndarray],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "measured",
        [helper.make_tensor_value_info("x", dtype, ["batch", *row])],
        [helper.make_tensor_value_info("y", dtype, ["batch", *output])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model

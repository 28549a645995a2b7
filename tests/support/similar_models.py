"""Models that differ only in their weights, as thousands of models of one family do."""

import numpy as np
from onnx import ModelProto, TensorProto, helper
from onnx.numpy_helper import from_array


def mean_of_product(seed: int = 0, *, label: str = "g") -> ModelProto:
    """`y` float [N, 2] = the mean over axis 1 of `x` float [N, 3, 4] times random weights float [4, 2].

    Args:
        seed: Determines the weights.
        label: The graph's name and description, which change no answer.
    """
    weights = np.random.default_rng(seed).standard_normal((4, 2), np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("ReduceMean", ["product", "axes"], ["y"], keepdims=0),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    constants = [from_array(weights, "w"), from_array(np.array([1], np.int64), "axes")]
    graph = helper.make_graph(nodes, label, [x], [y], constants, doc_string=label)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

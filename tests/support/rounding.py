"""How far rounding alone may change a model's answer: runs the model with small errors in every intermediate value."""

import numpy as np
import onnxruntime as ort
from onnx import NodeProto
from onnx.helper import make_node

from headrace_batching.task import Array
from tests.support.graphs import Graph

UNITS = 8
"""The units in the last place by which each value may be off: a sum in another order, or a fused multiply-add."""

DRAWS = 300
"""The number of draws: enough to draw each side of a tie several times."""

_NOT_REAL = {"ArgMax", "Shape", "QuantizeLinear", "DynamicQuantizeLinear"}


class Rounding:
    """The answers of a float32 graph to one request alone, with different roundings.

    A batch of another size runs other kernels, which round differently. The error is small relative to the rounded
    values, but may be large relative to the answer: in the difference of two large values, a quantization step, or a
    choice between two equal maxima. Only the request's own rows are used here, so another caller's rows in an answer
    are never mistaken for rounding.
    """

    def __init__(self, graph: Graph) -> None:
        nodes = [node for own in graph.nodes for node in _rounded(own)]
        rounded = Graph(nodes, graph.inputs, graph.outputs, graph.constants)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(rounded.model().SerializeToString(), options)

    def assert_explains(self, answer: Array, expected: Array, x: Array) -> None:
        """Every number must lie within the drawn range, or slightly outside.

        Args:
            answer: The server's answer.
            expected: The answer of the model alone.
            x: The request.
        """
        drawn = np.stack([expected, *(self._session.run(["y"], {"x": x})[0] for _ in range(DRAWS))])
        assert answer.shape == expected.shape
        with np.errstate(all="ignore"):
            least, most = np.nanmin(drawn, axis=0), np.nanmax(drawn, axis=0)
            spread, size = most - least, np.abs(expected)
            beyond = np.maximum(np.nan_to_num(spread, posinf=0), 1e-4 + 1e-3 * np.nan_to_num(size, posinf=0))
            within = (answer >= least - beyond) & (answer <= most + beyond)
        within |= np.isnan(answer) & np.isnan(drawn).any(axis=0)
        assert within.all(), f"{answer[~within]} instead of {expected[~within]}, or with rounding {drawn[:9, ~within]}"


def _rounded(node: NodeProto) -> list[NodeProto]:
    """The node, with its first output multiplied by numbers close to 1."""
    if node.op_type in _NOT_REAL:
        return [node]
    exact, near, off = node.output[0] + "_exact", node.output[0] + "_near", UNITS * float(np.finfo(np.float32).eps)
    own = NodeProto()
    own.CopyFrom(node)
    own.output[0] = exact
    factors = make_node("RandomUniformLike", [exact], [near], low=1 - off, high=1 + off, seed=1.0)
    return [own, factors, make_node("Mul", [exact, near], [node.output[0]])]

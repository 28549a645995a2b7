"""Finds operators in an ONNX graph that make an answer depend on other rows, or on chance."""

from collections.abc import Iterable, Iterator
from typing import Any

from headrace_server.backends.independence import Evidence

_ADVICE_QUANTIZE = "quantize it statically (onnxruntime.quantization.quantize_static), so that scales are fixed"
_ADVICE_EXPORT = "export it in inference mode"

_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
_DYNAMIC = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def doubts(nodes: Iterable[Any]) -> tuple[Evidence, ...]:
    """Reasons to doubt that rows are independent.

    Args:
        nodes: The nodes of the graph, of all subgraphs and of the model's functions.
    """
    return tuple(dict.fromkeys(found for node in nodes for found in _of_node(node)))


def _of_node(node: Any) -> Iterator[Evidence]:
    operator = node.op_type
    if operator in _DYNAMIC:
        yield Evidence(f"{operator} takes its scale from all rows of a batch", _ADVICE_QUANTIZE)
    elif operator in _RANDOM:
        yield Evidence(f"{operator} draws random numbers")
    elif any(attribute.name == "training_mode" and attribute.i == 1 for attribute in node.attribute):
        yield Evidence(f"{operator} runs in training mode, on statistics of the batch", _ADVICE_EXPORT)

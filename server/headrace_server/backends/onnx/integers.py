"""Finds which values of a graph may be integers, judging by the model's file alone."""

from collections.abc import Iterable, Mapping
from typing import Any

INTEGERS = frozenset((2, 3, 4, 5, 6, 7, 12, 13))
"""The numbers of the integer types in onnx.TensorProto.DataType."""

_ALWAYS = frozenset(
    "ArgMax ArgMin ConvInteger DynamicQuantizeLinear LabelEncoder MatMulInteger NonMaxSuppression NonZero "
    "QuantizeLinear SequenceLength Shape Size TopK Unique".split()
)
"""Operators with an output of integers, whatever their inputs are."""

_NEVER = frozenset(
    "And BatchNormalization Conv DequantizeLinear Equal Erf Exp GRU Greater GreaterOrEqual IsInf IsNaN LSTM "
    "LayerNormalization Less LessOrEqual Log LogSoftmax Not Or RNN RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike Reciprocal Sigmoid Softmax Sqrt Tanh Xor".split()
)

_SAME_AS: Mapping[str, tuple[int, ...]] = {"CastLike": (1,), "OneHot": (2,), "Where": (1, 2)}
"""The numbers of the inputs that have the output's type; for an operator that is not listed, it is the first input."""


def may_be_integers(nodes: Iterable[Any], known: Iterable[str]) -> set[str]:
    """Follows integers through nodes.

    Args:
        nodes: The graph's nodes, in the order in which they run.
        known: Names of inputs and weights that are integers.

    Returns: The names of all values that may be integers. The outputs of subgraphs may be anything.
    """
    found = set(known)
    for node in nodes:
        if _is_integer(node, found):
            found.update(node.output)
    return found


def _is_integer(node: Any, integers: set[str]) -> bool:
    operator = node.op_type
    if operator in ("Cast", "Constant", "ConstantOfShape"):
        return _says_integer(node)
    if operator in _ALWAYS or any(attribute.HasField("g") for attribute in node.attribute):
        return True
    same = _SAME_AS.get(operator, (0,))
    return operator not in _NEVER and any(node.input[i] in integers for i in same if i < len(node.input))


def _says_integer(node: Any) -> bool:
    for attribute in node.attribute:
        if attribute.name == "to":
            return attribute.i in INTEGERS
        if attribute.HasField("t"):
            return attribute.t.data_type in INTEGERS
        if attribute.name in ("value_int", "value_ints"):
            return True
    return False

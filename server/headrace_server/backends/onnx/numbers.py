"""Finds numbers in an ONNX graph that the lengths of inputs may be compared with or cut to."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headrace_server.backends.onnx.row_rules import Constant
from headrace_server.backends.onnx.rowwise import FEW, constant_of

MOST = 1 << 20
"""The largest number that is found: no input is longer."""

_COMPARES = frozenset("Clip Equal Greater GreaterOrEqual Less LessOrEqual Max Min".split())
_COUNTS = frozenset("Div Loop Mod Range Slice Sub Where".split())  # their whole numbers are sizes, other ones are not
_CUTS = frozenset(("starts", "ends"))  # attributes of Slice before opset 10
_FLOATS = {1: ("f", 4), 11: ("d", 8)}  # by the number in onnx.TensorProto.DataType: the format, and the number of bytes


def compared_numbers(nodes: Iterable[Any], weights: Mapping[str, Constant]) -> tuple[int, ...]:
    """Positive numbers at which the answer to a longer input may begin to differ, in increasing order.

    For example, a model may use only the last 50 elements, or divide by at most 100.

    Args:
        nodes: The nodes of the graph, of all inner graphs and of the model's functions.
        weights: The properties of the graph's weights, by name.
    """
    whole = {name: weight.values for name, weight in weights.items() if weight.values}
    real: dict[str, tuple[float, ...]] = {}
    found = set[float]()
    for node in nodes:
        if node.op_type == "Constant":
            for name in node.output[:1]:
                whole[name], real[name] = tuple(_integers(node)), tuple(_reals(node))
            continue
        compares = node.op_type in _COMPARES
        if compares or node.op_type in _COUNTS:
            found.update(number for name in node.input for number in whole.get(name, ()))
            found.update(number for name in node.input if compares for number in real.get(name, ()))
            found.update(number for own in node.attribute if own.name in _CUTS for number in own.ints)
    sizes = {abs(int(number)) for number in found if abs(number) <= MOST and number == int(number)}
    return tuple(sorted(sizes - {0}))


def _integers(node: Any) -> Iterator[int]:
    for attribute in node.attribute:
        if attribute.name == "value_int":
            yield attribute.i
        elif attribute.name == "value_ints":
            yield from attribute.ints[:FEW]
        elif attribute.name == "value":
            yield from constant_of(attribute.t).values or ()


def _reals(node: Any) -> Iterator[float]:
    for attribute in node.attribute:
        tensor = attribute.t
        if attribute.name == "value" and tensor.data_type in _FLOATS and constant_of(tensor).size <= FEW:
            form, size = _FLOATS[tensor.data_type]
            raw = tensor.raw_data
            yield from struct.unpack(f"<{len(raw) // size}{form}", raw[: len(raw) // size * size])

"""Finds the inputs to which an ONNX graph only appends values, such as the keys and values of earlier tokens.

Such an input may have no elements, as before the first token: what the graph computes with has elements all the same.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

_PASSES_SIZES = frozenset("Cast Gather Identity Squeeze Unsqueeze".split())

_TAKES_ZERO: Mapping[str, tuple[int, ...]] = {"Add": (0, 1), "Range": (0,), "Slice": (1,)}
"""Operators for which a size of 0 is no reason to compute an empty array, and the numbers of their inputs for sizes."""


def appended_axes(nodes: Iterable[Any], inner: Iterable[Any], inputs: Mapping[str, int]) -> dict[str, int]:
    """The axis along which each of these inputs is continued, by the input's name.

    Args:
        nodes: The graph's nodes.
        inner: The nodes of inner graphs, whose inputs may be anything.
        inputs: The rank of each of the graph's inputs, by name.
    """
    users: defaultdict[str, list[Any]] = defaultdict(list)
    for node in nodes:
        for name in set(node.input):
            users[name].append(node)
    names = inputs.keys() - {name for node in inner for name in node.input}
    found = {name: _axis(name, users, inputs) for name in sorted(names)}
    return {name: axis for name, axis in found.items() if axis is not None}


def _axis(name: str, users: Mapping[str, list[Any]], inputs: Mapping[str, int]) -> int | None:
    axes = set[int | None]()
    for node in users.get(name, ()):
        if node.op_type == "Concat":
            computed = any(other and other not in inputs for other in node.input)
            axes.add(_along(node, inputs[name]) if computed else None)
        elif node.op_type != "Shape" or not _only_added(node.output[0], users):
            return None
    return axes.pop() if len(axes) == 1 else None


def _along(concat: Any, rank: int) -> int | None:
    """The axis of a Concat; None if that is the batch."""
    axis = next((attribute.i for attribute in concat.attribute if attribute.name == "axis"), 0)
    return (axis % rank or None) if -rank <= axis < rank else None


def _only_added(size: str, users: Mapping[str, list[Any]]) -> bool:
    """Whether a size is only the beginning of a range, or is added to another one."""
    for node in users.get(size, ()):
        if node.op_type in _PASSES_SIZES:
            if not _only_added(node.output[0], users):
                return False
        elif not {i for i, name in enumerate(node.input) if name == size} <= {*_TAKES_ZERO.get(node.op_type, ())}:
            return False
    return True

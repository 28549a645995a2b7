"""Proves from an ONNX graph that no row of a batch affects another, because all operators work row by row.

Rows without a proof may still be independent; a test must decide.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from headrace_server.backends.onnx.row_rules import RULES, Constant, Node, Rows


def rows_apart(nodes: Iterable[Any], inputs: Mapping[str, int], constants: Mapping[str, Constant]) -> frozenset[str]:
    """The names of the values whose rows depend only on the same row of the inputs.

    Args:
        nodes: The graph's nodes, in the order in which they run.
        inputs: The ranks of the graph's inputs, by name. Axis 0 of each is the batch axis.
        constants: The graph's weights.
    """
    values: dict[str, Rows | Constant] = {**{name: Rows(rank) for name, rank in inputs.items() if rank}, **constants}
    shapes: dict[str, int] = {}  # by the name of a value's shape in the graph, the value's rank
    for message in nodes:
        node = Node(message, values)
        if (message.domain, message.op_type) == ("", "Shape") and node.rank and not node.has("start", "end"):
            shapes[message.output[0]] = node.rank
        elif message.op_type == "Constant" and (tensor := node.tensor()) is not None:
            values[message.output[0]] = constant_of(tensor)
        elif constant := _folded(message, node) or _inner_sizes(message, node, shapes):
            values[message.output[0]] = constant
        elif node.known and (rule := RULES.get((message.domain, message.op_type))):
            made = zip(message.output, rule(node), strict=False)
            values.update((name, Rows(rank)) for name, rank in made if name and rank)
    return frozenset(name for name, value in values.items() if isinstance(value, Rows))


FEW = 64
"""The maximum number of elements of a constant that is read: axes and shapes have no more."""

INT64 = 7
"""The number of int64 in onnx.TensorProto.DataType."""

_BYTES = 8  # the size of an element


def constant_of(tensor: Any) -> Constant:
    """The known properties of a tensor in the graph."""
    known = Constant(tuple(tensor.dims))
    if tensor.data_type != INT64 or known.size > FEW:
        return known
    raw = tensor.raw_data
    read = (int.from_bytes(raw[at : at + _BYTES], "little", signed=True) for at in range(0, len(raw), _BYTES))
    values = tuple(read) if raw else tuple(tensor.int64_data)
    return Constant(known.dims, values if len(values) == known.size else None)  # otherwise they lie in another file


def _folded(message: Any, node: Node) -> Constant | None:
    """What a node makes of a weight that it converts, as in a quantized graph; None for any other node."""
    first = node.input(0)
    if not isinstance(first, Constant) or not node.constants_from(1):
        return None
    if message.op_type in ("Identity", "Cast", "DequantizeLinear"):
        return Constant(first.dims, first.values if message.op_type == "Identity" else None)
    if message.op_type == "Transpose":
        permutation = node.integers("perm") or tuple(reversed(range(len(first.dims))))
        return Constant(tuple(first.dims[axis] for axis in permutation))
    if message.op_type == "Unsqueeze" and not first.dims:
        return Constant((1,) * len(node.integers("axes", 1) or (0,)))
    if message.op_type == "Slice" and node.known:
        axes = node.integers("axes", 3)
        cut = range(len(first.dims)) if axes is None else [axis % len(first.dims) for axis in axes]
        return Constant(tuple(_UNKNOWN if axis in cut else size for axis, size in enumerate(first.dims)))
    return None


_UNKNOWN = 1 << 40
"""Stands for the size of a dimension that depends on a request, so that it is never taken for a size of 1."""


def _inner_sizes(message: Any, node: Node, shapes: Mapping[str, int]) -> Constant | None:
    """Sizes beyond axis 0 that a node takes from a shape; like a weight, they are the same for all rows of a batch.

    For example, a table of position embeddings is cut to the number of tokens.
    """
    rank, indices = shapes.get(message.input[0], 0) if message.input else 0, node.input(1)
    if message.op_type != "Gather" or not isinstance(indices, Constant) or not indices.values:
        return None
    inside = all(-rank < index < 0 or 0 < index < rank for index in indices.values)
    return Constant(indices.dims) if inside else None

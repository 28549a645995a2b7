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
    by_rows: dict[str, int] = {}  # by the name of a shape that begins with the number of rows, the length of the shape
    for message in nodes:
        node = Node(message, values)
        operator = "" if message.domain else message.op_type
        if operator == "Shape" and node.rank and not node.has("start", "end"):
            shapes[message.output[0]] = node.rank
        elif length := _shape_by_rows(operator, message, node, shapes, by_rows):
            by_rows[message.output[0]] = length
        elif operator == "Reshape" and node.rank and (rank := by_rows.get(message.input[-1])):
            values[message.output[0]] = Rows(rank)  # rows that are as many as before have the same elements as before
        elif operator == "Constant" and (tensor := node.tensor()) is not None:
            values[message.output[0]] = constant_of(tensor)
        elif constant := _folded(operator, node) or _inner_sizes(operator, message, node, shapes):
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


def _folded(operator: str, node: Node) -> Constant | None:
    """What a node makes of weights alone; None for any other node.

    Quantized graphs convert weights, and text models look up the embeddings of the positions in a table.
    """
    first = node.input(0)
    if not isinstance(first, Constant) or not node.constants_from(1):
        return None
    if operator in ("Identity", "Cast", "DequantizeLinear"):
        return Constant(first.dims, first.values if operator == "Identity" else None)
    if operator == "Transpose":
        permutation = node.integers("perm") or tuple(reversed(range(len(first.dims))))
        return Constant(tuple(first.dims[axis] for axis in permutation))
    if operator == "Unsqueeze" and not first.dims:
        return Constant((1,) * len(node.integers("axes", 1) or (0,)))
    indices = node.input(1)
    if operator == "Gather" and first.dims and isinstance(indices, Constant):
        axis = node.integer("axis", 0) % len(first.dims)
        return Constant((*first.dims[:axis], *indices.dims, *first.dims[axis + 1 :]))
    if operator == "Slice" and node.known:
        axes = node.integers("axes", 3)
        cut = range(len(first.dims)) if axes is None else [axis % len(first.dims) for axis in axes]
        return Constant(tuple(_UNKNOWN if axis in cut else size for axis, size in enumerate(first.dims)))
    return None


def _shape_by_rows(
    operator: str, message: Any, node: Node, shapes: Mapping[str, int], by_rows: Mapping[str, int]
) -> int:
    """The length of a shape that a node makes, and that begins with the number of rows; 0 for any other node.

    For example, attention splits each row into heads: it takes the number of rows from the shape of its input, and
    appends the sizes of the heads. A number of rows alone counts as such a shape.
    """
    first = message.input[0] if message.input else ""
    if operator == "Gather" and first in shapes:
        index = node.input(1)
        if isinstance(index, Constant) and len(index.dims) <= 1 and index.values in ((0,), (-shapes[first],)):
            return 1
    if operator in ("Unsqueeze", "Cast", "Identity"):
        return 1 if by_rows.get(first) == 1 else 0
    if operator == "Concat" and first in by_rows:
        sizes = [other.size for other in node.inputs[1:] if isinstance(other, Constant) and len(other.dims) == 1]
        is_known = len(sizes) == len(node.inputs) - 1 and sum(sizes) <= FEW
        return by_rows[first] + sum(sizes) if is_known else 0
    return 0


_UNKNOWN = 1 << 40
"""Stands for the size of a dimension that depends on a request, so that it is never taken for a size of 1."""


def _inner_sizes(operator: str, message: Any, node: Node, shapes: Mapping[str, int]) -> Constant | None:
    """Sizes beyond axis 0 that a node takes from a shape; like a weight, they are the same for all rows of a batch.

    For example, a table of position embeddings is cut to the number of tokens.
    """
    rank, indices = shapes.get(message.input[0], 0) if message.input else 0, node.input(1)
    if operator != "Gather" or not isinstance(indices, Constant) or not indices.values:
        return None
    inside = all(-rank < index < 0 or 0 < index < rank for index in indices.values)
    return Constant(indices.dims) if inside else None

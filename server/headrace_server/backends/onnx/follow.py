"""Follows the values of a request through an ONNX graph, its subgraphs and its functions."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Followed = Sequence[tuple[Any, set[int]]]
"""Nodes, each with the numbers of those of its inputs that depend on the values of a request."""

_SHAPES_ALONE: Mapping[str, int] = {"Shape": 0, "Size": 0}
BOUNDED: Mapping[str, int] = {**_SHAPES_ALONE, "ArgMax": 0, "ArgMin": 0, "TopK": 1}
"""Operators with outputs that do not depend on the values of their inputs, or are indices in range; each with the
number of the first such output.
"""


def follow(
    nodes: list[Any], inputs: set[str], *, bounded: Mapping[str, int] = _SHAPES_ALONE
) -> Iterator[tuple[Any, set[int]]]:
    """Each node, and the numbers of those of its inputs that depend on the values of the graph's inputs.

    Args:
        nodes: The graph's nodes, in the order in which they run. Subgraphs are not followed here: their outputs may
            be anything.
        inputs: The names of the graph's inputs.
        bounded: Operators with outputs that do not depend on values, each with the number of the first such output.
    """
    from_values = set(inputs)
    for node in nodes:
        dependent = {number for number, name in enumerate(node.input) if name in from_values}
        yield node, dependent
        if dependent or has_graphs(node):
            from_values.update(node.output[: bounded.get(node.op_type)])


class Inside:
    """Follows values into subgraphs and functions.

    Args:
        functions: The functions that the model defines.
    """

    def __init__(self, functions: Iterable[Any]) -> None:
        self._functions = defaultdict[tuple[str, str], list[Any]](list)
        for function in functions:
            self._functions[function.domain, function.name].append(function)
        self._seen: set[tuple[str, str, frozenset[int]]] = set()

    def followed(self, nodes: list[Any], inputs: set[str]) -> Iterator[tuple[Any, set[int]]]:
        """Like `follow`, but yields the nodes of the graphs and functions inside these nodes, at all depths."""
        from_values = set(inputs)
        for node, dependent in follow(nodes, inputs, bounded=BOUNDED):
            for inner, seen in self._bodies(node, dependent, from_values):
                yield from follow(inner, seen, bounded=BOUNDED)
                yield from self.followed(inner, seen)
            if dependent or has_graphs(node):
                from_values.update(node.output[: BOUNDED.get(node.op_type)])

    def _bodies(self, node: Any, dependent: set[int], from_values: set[str]) -> Iterator[tuple[list[Any], set[str]]]:
        """The nodes of a node's subgraphs and functions, and the names in them that may depend on a request.

        A subgraph sees the values around it, and a function only its arguments. A function is followed only once
        for the same arguments.
        """
        for graph in _graphs(node):
            yield list(graph.node), from_values | _own_inputs(node, graph, dependent, from_values)
        key = (node.domain, node.op_type, frozenset(dependent))
        if key not in self._seen:
            self._seen.add(key)
            for function in self._functions.get(key[:2], ()):  # several if the function is overloaded
                yield list(function.node), {name for number, name in enumerate(function.input) if number in dependent}


def _own_inputs(node: Any, graph: Any, dependent: set[int], from_values: set[str]) -> set[str]:
    """The inputs of a node's subgraph that may depend on values: none, or all but the number of an iteration."""
    used = {name for inner in (*graph.node, *inner_nodes(graph.node)) for name in inner.input}
    if not dependent and from_values.isdisjoint(used):
        return set()
    counts = node.op_type == "Loop" and 0 not in dependent
    return {value.name for value in graph.input[1 if counts else 0 :]}


def _graphs(node: Any) -> Iterator[Any]:
    """The subgraphs of a node."""
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else [])
        yield from attribute.graphs


def inner_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    """The nodes of all subgraphs."""
    for node in nodes:
        for graph in _graphs(node):
            yield from graph.node
            yield from inner_nodes(graph.node)


def has_graphs(node: Any) -> bool:
    """Whether a node has subgraphs."""
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)

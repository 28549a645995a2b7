"""What the graph of a SavedModel says about its runs."""

from collections.abc import Iterable, Iterator, Sequence
from graphlib import TopologicalSorter
from typing import Any, NamedTuple

from headrace_server.backends.base import NO_RISKS, Risks

_SIZES = {
    "Bincount": (1,),
    "BroadcastTo": (1,),
    "Conv2DBackpropInput": (0,),
    "Conv3DBackpropInputV2": (0,),
    "CropAndResize": (3,),
    "DecodeAndCropJpeg": (0, 1),
    "DecodeBmp": (0,),
    "DecodeCompressed": (0,),
    "DecodeGif": (0,),
    "DecodeImage": (0,),
    "DecodeJpeg": (0,),
    "DecodePng": (0,),
    "DecodeWebP": (0,),
    "DenseBincount": (1,),
    "Empty": (0,),
    "Fill": (0,),
    "ImageProjectiveTransformV2": (2,),
    "ImageProjectiveTransformV3": (2,),
    "LinSpace": (2,),
    "MatrixDiagV2": (2, 3),
    "MatrixDiagV3": (2, 3),
    "MirrorPad": (1,),
    "Multinomial": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "PadV2": (1,),
    "RaggedBincount": (2,),
    "RaggedRange": (0, 1, 2),
    "RaggedTensorToTensor": (0, 3, 4, 5),
    "RandomStandardNormal": (0,),
    "RandomUniform": (0,),
    "RandomUniformInt": (0,),
    "Range": (0, 1, 2),
    "ResizeArea": (1,),
    "ResizeBicubic": (1,),
    "ResizeBilinear": (1,),
    "ResizeNearestNeighbor": (1,),
    "ScaleAndTranslate": (1,),
    "ScatterNd": (2,),
    "SpaceToBatch": (1,),
    "SpaceToBatchND": (2,),
    "SparseToDense": (1,),
    "StatelessRandomNormalV2": (0,),
    "StatelessRandomUniformV2": (0,),
    "StatelessRandomUniformIntV2": (0,),
    "TensorArrayV3": (0,),
    "TensorListReserve": (1,),
    "Tile": (1,),
    "TruncatedNormal": (0,),
    "UnsortedSegmentMax": (2,),
    "UnsortedSegmentMin": (2,),
    "UnsortedSegmentProd": (2,),
    "UnsortedSegmentSum": (2,),
}
"""The inputs of operators whose values determine the size of an output, which TensorFlow does not limit.

A few bytes of an image or of compressed data can expand to gigabytes, too.
"""

_BOUNDED = {"ArgMax", "ArgMin", "OnesLike", "Rank", "Shape", "ShapeN", "Size", "ZerosLike"}
"""Operators whose outputs do not depend on the values of their inputs, or are indices in range."""

_CALLS = {"BatchFunction", "MapDefun", "PartitionedCall", "StatefulPartitionedCall"}
_LOOPS = {"While", "StatelessWhile"}
_CHOICES = {"If", "StatelessIf", "Case", "StatelessCase"}
_LOOP_CONDITION = "LoopCond"
"""The operator that decides whether a loop of TensorFlow 1, whose operators are in the same graph, goes on."""

_BACK = {"NextIteration", "RefNextIteration"}
"""The operators that lead back to the beginning of such a loop."""


class _Tensor(NamedTuple):
    """One output of a node, or an argument of a function."""

    node: str
    number: int


class _Node(NamedTuple):
    """A node, with the names of the functions that it calls."""

    name: str
    operator: str
    inputs: Sequence[_Tensor]
    functions: Sequence[str]


class SavedModelGraph:
    """A graph and its functions.

    Args:
        graph: TensorFlow's GraphDef.
        feeds: The names of the tensors that requests feed, such as `serving_default_x:0`.
    """

    def __init__(self, graph: Any, feeds: Iterable[str]) -> None:
        self._main = _Body(graph.node, (), ())
        self._functions = {each.signature.name: _body_of(each) for each in graph.library.function}
        self._main.chosen.update(_tensor(feed) for feed in feeds)

    @property
    def risks(self) -> Risks:
        """The operators whose memory use or number of repetitions depends on values in a request."""
        bodies = (self._main, *self._functions.values())
        while self._spread(bodies):
            pass
        growing, lasting = set(), set()
        for body in bodies:
            for node in body.nodes:
                if body.has_chosen(_at(node.inputs, _SIZES.get(node.operator, ()))):
                    growing.add(node.operator)
                if self._may_last(body, node):
                    lasting.add(node.operator)
        return Risks(growing=tuple(sorted(growing)), lasting=tuple(sorted(lasting))) if growing or lasting else NO_RISKS

    def _may_last(self, body: "_Body", node: _Node) -> bool:
        """Whether a node is a loop whose number of iterations depends on values in a request."""
        if node.operator in _LOOPS:
            condition, _ = self._called(node)
            return condition.has_chosen(condition.results)
        return node.operator == _LOOP_CONDITION and body.has_chosen(node.inputs)

    def _spread(self, bodies: Sequence["_Body"]) -> bool:
        """Adds the outputs of nodes whose inputs depend on values in a request; returns whether any was added."""
        before = sum(len(body.chosen) for body in bodies)
        for body in bodies:
            for node in body.nodes:
                if body.chosen.isdisjoint(node.inputs) or node.operator in _BOUNDED:
                    continue
                if node.operator in _CALLS:
                    (function,) = self._called(node)
                    self._call(body, node, function, node.inputs)
                elif node.operator in _LOOPS:
                    self._repeat(body, node, *self._called(node))
                elif node.operator in _CHOICES:
                    self._choose(body, node, self._called(node))
                else:
                    body.chosen.add(_Tensor(node.name, _EVERY))
        return sum(len(body.chosen) for body in bodies) > before

    def _called(self, node: _Node) -> list["_Body"]:
        return [self._functions.get(name) or _Body((), (), ()) for name in node.functions]

    def _call(self, body: "_Body", node: _Node, function: "_Body", inputs: Sequence[_Tensor]) -> None:
        function.take(body.are_chosen(inputs))
        body.give(node, function.are_chosen(function.results))

    def _repeat(self, body: "_Body", node: _Node, condition: "_Body", step: "_Body") -> None:
        condition.take(body.are_chosen(node.inputs))
        self._call(body, node, step, node.inputs)
        again = step.are_chosen(step.results)
        condition.take(again)
        step.take(again)

    def _choose(self, body: "_Body", node: _Node, branches: Sequence["_Body"]) -> None:
        is_chosen = body.has_chosen(node.inputs[:1])
        for branch in branches:
            self._call(body, node, branch, node.inputs[1:])
            if is_chosen:
                body.give(node, [True] * len(branch.results))


_EVERY = -1
"""The number that stands for every output of a node."""


class _Body:
    """The nodes of a graph or of a function.

    Args:
        nodes: TensorFlow's NodeDefs.
        arguments: The names of a function's arguments.
        results: The tensors that a function returns.

    Attributes:
        nodes: The nodes; each is preceded by those whose outputs it takes, except in loops.
        chosen: The tensors whose values depend on values in a request.
    """

    def __init__(self, nodes: Iterable[Any], arguments: Sequence[str], results: Sequence[str]) -> None:
        self.nodes = list(_in_order([_node(each) for each in nodes]))
        self.results = [_tensor(result) for result in results]
        self._arguments = arguments
        self.chosen = _Chosen()

    def has_chosen(self, tensors: Iterable[_Tensor]) -> bool:
        """Whether any of these tensors depends on values in a request."""
        return not self.chosen.isdisjoint(tensors)

    def are_chosen(self, tensors: Iterable[_Tensor]) -> list[bool]:
        """Whether each of these tensors depends on values in a request."""
        return [tensor in self.chosen for tensor in tensors]

    def take(self, chosen: Iterable[bool]) -> None:
        """Adds the arguments for which `chosen` is true."""
        pairs = zip(self._arguments, chosen, strict=False)
        self.chosen.update(_Tensor(name, 0) for name, own in pairs if own)

    def give(self, node: _Node, chosen: Iterable[bool]) -> None:
        """Adds the outputs of a node for which `chosen` is true."""
        self.chosen.update(_Tensor(node.name, number) for number, own in enumerate(chosen) if own)


class _Chosen:
    """A set of tensors, to which all outputs of a node can be added at once."""

    def __init__(self) -> None:
        self._tensors: set[_Tensor] = set()

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, tensor: _Tensor) -> bool:
        return tensor in self._tensors or _Tensor(tensor.node, _EVERY) in self._tensors

    def isdisjoint(self, tensors: Iterable[_Tensor]) -> bool:
        """Whether none of these tensors belongs to the set."""
        return not any(tensor in self for tensor in tensors)

    def add(self, tensor: _Tensor) -> None:
        """Adds a tensor."""
        self._tensors.add(tensor)

    def update(self, tensors: Iterable[_Tensor]) -> None:
        """Adds tensors."""
        self._tensors.update(tensors)


def _body_of(function: Any) -> _Body:
    """The body of TensorFlow's FunctionDef."""
    arguments = [argument.name for argument in function.signature.input_arg]
    results = [function.ret[result.name] for result in function.signature.output_arg]
    return _Body(function.node_def, arguments, results)


def _node(node: Any) -> _Node:
    inputs = [_tensor(name) for name in node.input if not name.startswith("^")]
    return _Node(node.name, node.op, inputs, tuple(_functions(node)))


def _in_order(nodes: Sequence[_Node]) -> Iterator[_Node]:
    """The nodes, each after those whose outputs it takes: one pass then reaches all that depends on an input."""
    by_name = {node.name: node for node in nodes}
    before = {
        node.name: () if node.operator in _BACK else [tensor.node for tensor in node.inputs if tensor.node in by_name]
        for node in nodes
    }
    return (by_name[name] for name in TopologicalSorter(before).static_order())


def _functions(node: Any) -> Iterator[str]:
    """The functions of a call, of a loop (the condition first) or of a choice."""
    for name in ("f", "cond", "body", "then_branch", "else_branch"):
        if name in node.attr and node.attr[name].HasField("func"):
            yield node.attr[name].func.name
    for each in node.attr["branches"].list.func if "branches" in node.attr else ():
        yield each.name


def _tensor(name: str) -> _Tensor:
    """The tensor `node`, `node:number` or, in a function, `node:output:number`."""
    node, *_, number = name.split(":") if ":" in name else (name, "0")
    return _Tensor(node, int(number))


def _at(tensors: Sequence[_Tensor], places: tuple[int, ...]) -> Iterator[_Tensor]:
    return (tensors[place] for place in places if place < len(tensors))

"""What the graphs of a TFLite file say about its runs."""

from collections.abc import Iterable, Iterator, Sequence

from ai_edge_litert.schema_py_generated import BuiltinOperator, Model, ModelT, OperatorT, SubGraphT

from headrace_server.backends.base import Risks

_SIZES = {
    BuiltinOperator.BROADCAST_TO: (1,),
    BuiltinOperator.CONV_3D_TRANSPOSE: (0,),
    BuiltinOperator.FILL: (0,),
    BuiltinOperator.MIRROR_PAD: (1,),
    BuiltinOperator.MULTINOMIAL: (1,),
    BuiltinOperator.ONE_HOT: (1,),
    BuiltinOperator.PAD: (1,),
    BuiltinOperator.PADV2: (1,),
    BuiltinOperator.RANDOM_STANDARD_NORMAL: (0,),
    BuiltinOperator.RANDOM_UNIFORM: (0,),
    BuiltinOperator.RANGE: (0, 1, 2),
    BuiltinOperator.RESIZE_BILINEAR: (1,),
    BuiltinOperator.RESIZE_NEAREST_NEIGHBOR: (1,),
    BuiltinOperator.SCATTER_ND: (2,),
    BuiltinOperator.SPACE_TO_BATCH_ND: (2,),
    BuiltinOperator.SPARSE_TO_DENSE: (1,),
    BuiltinOperator.TILE: (1,),
    BuiltinOperator.TRANSPOSE_CONV: (0,),
}
"""The inputs of operators whose values determine the size of the output. TFLite does not limit that size."""

_SHAPES_ONLY = {BuiltinOperator.RANK, BuiltinOperator.SHAPE, BuiltinOperator.ZEROS_LIKE}
"""Operators whose outputs do not depend on the values of their inputs."""

_NAMES = {number: name for name, number in vars(BuiltinOperator).items() if not name.startswith("_")}


class TfliteGraph:
    """The graphs of a TFLite file.

    Args:
        content: A TFLite file that the runtime has accepted.
    """

    def __init__(self, content: bytes) -> None:
        model = ModelT.InitFromObj(Model.GetRootAs(content, 0))
        # Files from before 2020 have the code of an operator in the second field, which is narrower.
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes or ()]
        self._graphs = [_Graph(graph, codes) for graph in model.subgraphs]

    @property
    def assigns_variables(self) -> bool:
        """Whether the model's runs, and not only its initialisation, assign to variables that the next run sees."""
        once = {
            each.builtinOptions.initSubgraphIndex
            for graph in self._graphs
            for code, each in graph.operators
            if code == BuiltinOperator.CALL_ONCE and each.builtinOptions is not None
        }
        return any(
            code == BuiltinOperator.ASSIGN_VARIABLE
            for number, graph in enumerate(self._graphs)
            if number not in once
            for code, _ in graph.operators
        )

    @property
    def risks(self) -> Risks:
        """The operators whose memory use or number of repetitions depends on values in a request."""
        self._graphs[0].chosen.update(self._graphs[0].inputs)
        while self._spread():
            pass
        growing = {
            _NAMES[code]
            for graph in self._graphs
            for code, each in graph.operators
            if graph.chosen.intersection(_at(each.inputs, _SIZES.get(code, ())))
        }
        lasts = any(
            self._graphs[each.builtinOptions.condSubgraphIndex].returns_chosen
            for graph in self._graphs
            for code, each in graph.operators
            if code == BuiltinOperator.WHILE
        )
        return Risks(growing=tuple(sorted(growing)), lasting=("WHILE",) if lasts else ())

    def _spread(self) -> bool:
        """Adds the outputs of operators whose inputs depend on values in a request; returns whether any was added."""
        before = self._count()
        for graph in self._graphs:
            for code, each in graph.operators:
                if code == BuiltinOperator.WHILE:
                    self._spread_loop(graph, each)
                elif code == BuiltinOperator.IF:
                    self._spread_branches(graph, each)
                elif code == BuiltinOperator.READ_VARIABLE or (
                    code not in _SHAPES_ONLY and graph.chosen.intersection(each.inputs)
                ):
                    graph.chosen.update(each.outputs)
        return self._count() > before

    def _spread_loop(self, graph: "_Graph", loop: OperatorT) -> None:
        condition, body = (self._graphs[number] for number in _loop(loop))
        for inner in (condition, body):
            graph.pass_to(inner, loop.inputs)
            body.pass_to(inner, body.outputs)
        graph.add(loop.outputs, _chosen_at(body, body.outputs))

    def _spread_branches(self, graph: "_Graph", choice: OperatorT) -> None:
        chosen = choice.inputs[0] in graph.chosen
        for branch in (self._graphs[number] for number in _branches(choice)):
            graph.pass_to(branch, choice.inputs[1:])
            graph.add(choice.outputs, [chosen or own for own in _chosen_at(branch, branch.outputs)])

    def _count(self) -> int:
        return sum(len(graph.chosen) for graph in self._graphs)


class _Graph:
    """One graph of a TFLite file.

    Args:
        graph: The graph in the file.
        codes: The codes of the operators that the file uses.

    Attributes:
        operators: Each operator with its code.
        chosen: The numbers of the tensors whose values depend on values in a request.
    """

    def __init__(self, graph: SubGraphT, codes: list[int]) -> None:
        self.operators = [(codes[each.opcodeIndex], each) for each in graph.operators or ()]
        for _, each in self.operators:
            each.inputs = () if each.inputs is None else tuple(each.inputs)
            each.outputs = () if each.outputs is None else tuple(each.outputs)
        self.inputs, self.outputs = list(graph.inputs), list(graph.outputs)
        self.chosen: set[int] = set()

    @property
    def returns_chosen(self) -> bool:
        """Whether an output depends on values in a request."""
        return bool(self.chosen.intersection(self.outputs))

    def pass_to(self, other: "_Graph", tensors: Iterable[int]) -> None:
        """Passes tensors of this graph to another one as its inputs."""
        other.add(other.inputs, _chosen_at(self, tensors))

    def add(self, tensors: Iterable[int], chosen: Iterable[bool]) -> None:
        """Adds those of these tensors for which `chosen` is true."""
        self.chosen.update(tensor for tensor, own in zip(tensors, chosen, strict=False) if own)


def _chosen_at(graph: _Graph, tensors: Iterable[int]) -> list[bool]:
    return [tensor in graph.chosen for tensor in tensors]


def _at(tensors: Sequence[int], places: tuple[int, ...]) -> Iterator[int]:
    return (tensors[place] for place in places if place < len(tensors))


def _loop(operator: OperatorT) -> tuple[int, int]:
    return operator.builtinOptions.condSubgraphIndex, operator.builtinOptions.bodySubgraphIndex


def _branches(operator: OperatorT) -> tuple[int, int]:
    return operator.builtinOptions.thenSubgraphIndex, operator.builtinOptions.elseSubgraphIndex

"""Reads the parts of an ONNX file's graph that decide how safely and steadily the model runs; skips the weights."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from headrace_server.backends.base import NO_RISKS, Risks
from headrace_server.backends.independence import NO_HINTS, Evidence, Hints
from headrace_server.backends.onnx.appended import appended_axes
from headrace_server.backends.onnx.categories import known_categories
from headrace_server.backends.onnx.doubts import doubts
from headrace_server.backends.onnx.file_bytes import FileBytes
from headrace_server.backends.onnx.follow import BOUNDED, Followed, Inside, follow, has_graphs, inner_nodes
from headrace_server.backends.onnx.integers import INTEGERS, may_be_integers
from headrace_server.backends.onnx.numbers import compared_numbers
from headrace_server.backends.onnx.operators import (
    CHECKS_MORE,
    FATAL_VALUES,
    GROWING,
    LASTING,
    RUN_AT_ANY_RANK,
    TRIED,
    dividing,
)
from headrace_server.backends.onnx.rowwise import rows_apart
from headrace_server.backends.onnx.structure import Content, Structure, read_structure
from headrace_server.backends.shared import Shared

# Operators whose duration, or whose output's size, depends on the values of their inputs, such as a number of
# iterations.
_BY_VALUES = frozenset(
    "Compress If Loop NonMaxSuppression NonZero RegexFullMatch Scan SequenceMap StringSplit Tokenizer Unique".split()
)

# The inputs, by number, whose values decide the size of an output. If these values depend only on shapes or constants,
# as in most exported graphs, the size is the same for all inputs of one shape.
_SIZES: Mapping[str, tuple[int, ...]] = {
    **GROWING,
    "Col2Im": (1, 2),
    "DFT": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "STFT": (1, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "TopK": (1,),
}

_KNOWN_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft"))

RUN_ON_EMPTY = frozenset("Abs Add Cast Constant Div Exp Identity Log Mul Neg Relu Sigmoid Sqrt Sub Tanh".split())
"""Operators that turn arrays without elements into such arrays; some other operators crash on empty arrays."""


@dataclass(frozen=True)
class Graph:
    """The properties of a model's graph, including subgraphs and functions.

    Attributes:
        steady: Whether a run's cost depends only on the shapes of its inputs, not on their values.
        any_rank: Inputs without a declared rank; a scalar declares rank 0.
        runs_on_empty: Whether ONNX Runtime's own CPU operators can run the model on arrays without elements.
        risks: The model's operators with which a request can crash the process.
        evidence: Reasons in the operators to doubt that rows are independent.
        hints: Facts about inputs to try, to find out whether rows are independent.
        appended: The axes along which inputs are only continued, by the inputs' names.
        rows_apart: The values in which each row is known to depend only on the same row of the inputs.
    """

    steady: bool = False
    any_rank: frozenset[str] = frozenset()
    runs_on_empty: bool = False
    risks: Risks = field(default_factory=Risks)
    evidence: tuple[Evidence, ...] = ()
    hints: Hints = NO_HINTS
    appended: tuple[tuple[str, int], ...] = ()
    rows_apart: frozenset[str] = frozenset()


def read_graph(model: Path, runtime: tuple[int, int] = CHECKS_MORE, shared: Shared | None = None) -> Graph | None:
    """Reads a file that a runtime has accepted, skipping its weights. None for a file in another format.

    Args:
        model: The ONNX file.
        runtime: The version of ONNX Runtime that runs the model.
        shared: The cache in which models with the same graph share its properties; None for a single model.

    Raises:
        OSError: The file cannot be read.
    """
    with FileBytes(model) as file:
        return graph_of(file, runtime, shared)


def graph_of(content: Content, runtime: tuple[int, int], shared: Shared | None) -> Graph | None:
    """Like `read_graph`, but takes the content of a file."""
    try:
        structure = read_structure(content)
        if structure is None:
            return None
        make = partial(_graph, structure, runtime)
        return make() if shared is None else shared.get(("onnx graph", structure.key, runtime), make)
    except (DecodeError, ValueError, IndexError, KeyError):
        return None


def _graph(structure: Structure, runtime: tuple[int, int]) -> Graph:
    """The properties of a structure. They depend on nothing else, so that models of one structure can share them."""
    nodes, inputs = list(structure.graph.node), list(structure.graph.input)
    functions, weights = structure.functions, structure.weights
    sent = {value.name for value in inputs} - weights.keys()
    inner = [
        *inner_nodes(nodes),
        *(node for function in functions for node in (*function.node, *inner_nodes(function.node))),
    ]
    integers = {value.name for value in inputs if value.type.tensor_type.elem_type in INTEGERS} | structure.integers
    divisions = _Divisions(dividing(runtime), integers, weights.keys())
    followed = list(follow(nodes, sent, bounded=BOUNDED))
    any_rank = frozenset(value.name for value in inputs if not value.type.tensor_type.HasField("shape"))
    steady = not functions and _is_steady(nodes, sent)  # the content of functions is not analysed
    risks = _risks(
        followed,
        list(Inside(functions).followed(nodes, sent)),
        inner,
        {_full_name(function.domain, function.name) for function in functions},
        divisions.fatal(followed, inner, sent) | _unequal(nodes, inner, runtime),
        any_rank=bool(any_rank & sent),
    )
    numbers = compared_numbers([*inner, *nodes], weights)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in inputs}
    return Graph(
        steady=steady,
        any_rank=any_rank,
        runs_on_empty=not functions and all(map(_runs_on_empty, nodes)),
        risks=risks,
        evidence=doubts([*nodes, *inner]),
        hints=Hints(numbers, known_categories(nodes, _sizes(inputs), weights), steady and risks == NO_RISKS),
        appended=tuple(appended_axes(nodes, inner, ranks).items()),
        rows_apart=frozenset() if functions else rows_apart(nodes, ranks, weights),
    )


def _sizes(inputs: list[Any]) -> dict[str, list[int]]:
    """The sizes of each input, by name; 0 for a dimension that varies."""
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in inputs}


def _is_steady(nodes: list[Any], inputs: set[str]) -> bool:
    for node, dependent in follow(nodes, inputs):
        if node.op_type in _BY_VALUES or node.domain not in _KNOWN_DOMAINS or has_graphs(node):
            return False
        if dependent.intersection(_SIZES.get(node.op_type, ())) or _lasts(node, dependent):
            return False
    return True


def _risks(
    followed: Followed, inside: Followed, inner: list[Any], functions: set[str], crashing: set[str], *, any_rank: bool
) -> Risks:
    """The risks of a graph, of its subgraphs, and of its functions.

    Args:
        followed: The graph's nodes, each with its inputs that depend on a request.
        inside: The nodes of subgraphs and of functions, followed from the graph's inputs.
        inner: The nodes of subgraphs and of functions.
        functions: The names of the functions.
        crashing: Operators of the graph that crash for another reason than `FATAL_VALUES`.
        any_rank: Whether an input may be of any rank.
    """
    fatal = crashing | {node.op_type for node in inner if node.op_type in FATAL_VALUES}
    fatal |= _depending(followed, FATAL_VALUES)
    used = {_full_name(node.domain, node.op_type) for node in (*(node for node, _ in followed), *inner)}
    if any_rank:
        fatal |= used - RUN_AT_ANY_RANK
    untried = used - TRIED - functions
    every = [*followed, *inside]
    growing = _depending(every, GROWING) | {node.op_type for node, dependent in every if _grows(node, dependent)}
    lasting = {node.op_type for node, dependent in every if _lasts(node, dependent)}
    return Risks(*(tuple(sorted(names)) for names in (fatal, untried, growing, lasting)))


def _grows(node: Any, dependent: set[int]) -> bool:
    """Whether a node is a loop that keeps values of each iteration, and whose number of iterations is in a request."""
    kept = len(node.output) - max(0, len(node.input) - 2)  # the other outputs are the last values of the loop's inputs
    return node.op_type == "Loop" and kept > 0 and 0 in dependent


def _lasts(node: Any, dependent: set[int]) -> bool:
    samples = any(attribute.name == "sampling_ratio" and attribute.i for attribute in node.attribute)
    return bool(dependent.intersection(LASTING.get(node.op_type, ()))) and not samples


def _unequal(nodes: list[Any], inner: list[Any], runtime: tuple[int, int]) -> set[str]:
    """The name of GatherND if the graph uses it with batch dimensions that the runtime does not compare."""
    if runtime >= CHECKS_MORE:
        return set()
    gathers = (node for node in (*nodes, *inner) if node.op_type == "GatherND")
    return {node.op_type for node in gathers if any(a.name == "batch_dims" and a.i for a in node.attribute)}


@dataclass(frozen=True)
class _Divisions:
    """The divisions of integers in a graph.

    Attributes:
        operators: The operators that crash on some divisors.
        integers: The graph's inputs and weights that are integers.
        weights: All weights; no request decides their values.
    """

    operators: frozenset[str]
    integers: set[str]
    weights: Container[str]

    def fatal(self, followed: Followed, inner: list[Any], inputs: set[str]) -> set[str]:
        """Those of `operators` whose divisor may come from the values of a request."""
        nodes = [node for node, _ in followed]
        integers = may_be_integers(nodes, self.integers)
        divides = [node for node, dependent in followed if 1 in dependent and node.op_type in self.operators]
        return {node.op_type for node in divides if node.input[0] in integers} | self._fatal_inside(
            inner, integers, inputs | _names(nodes, "output")
        )

    def _fatal_inside(self, inner: list[Any], integers: set[str], outer: set[str]) -> set[str]:
        """The divisions in subgraphs. Their inputs are not analysed, so each may be an integer of any value."""
        made = _names(inner, "output") | outer
        unknown = {name for name in _names(inner, "input") - made if name not in self.weights}
        floats = made - may_be_integers(inner, integers | unknown)
        constants = _names([node for node in inner if node.op_type == "Constant"], "output")
        divides = [node for node in inner if node.op_type in self.operators and not floats.intersection(node.input)]
        return {n.op_type for n in divides if n.input[1] not in self.weights and n.input[1] not in constants}


def _names(nodes: list[Any], which: str) -> set[str]:
    return {name for node in nodes for name in getattr(node, which)}


def _depending(followed: Followed, by: Mapping[str, tuple[int, ...]]) -> set[str]:
    """The operators of nodes of which at least one of the inputs listed in `by` depends on a request's values."""
    return {node.op_type for node, dependent in followed if dependent.intersection(by.get(node.op_type, ()))}


def _full_name(domain: str, name: str) -> str:
    return name if domain in ("", "ai.onnx") else f"{domain}.{name}"


def _runs_on_empty(node: Any) -> bool:
    """Whether a node can run on arrays without elements. A ReduceSum can if it reduces all axes to one number."""
    sums_all = node.op_type == "ReduceSum" and len(node.input) == 1
    sums_all = sums_all and all(attribute.name == "keepdims" for attribute in node.attribute)
    return node.domain == "" and (node.op_type in RUN_ON_EMPTY or sums_all)

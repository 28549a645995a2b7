"""Finds the categories that an ONNX graph knows, and the inputs that hold them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headrace_server.backends.independence.categories import Categories
from headrace_server.backends.onnx.row_rules import Constant

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "CategoryMapper": ("cats_strings", "cats_int64s"),
    "LabelEncoder": ("keys_strings", "keys_int64s"),
    "OneHotEncoder": ("cats_strings", "cats_int64s"),
    "TfIdfVectorizer": ("pool_strings", "pool_int64s"),
}
"""Operators that know values of their input, and the attributes with these values; a node has one of them."""

_SAME = frozenset("Cast Flatten Identity Reshape Squeeze StringNormalizer Tokenizer Unsqueeze".split())
"""Operators with an output that has the same values as their input, or words of it."""

_MOST = 64  # categories that are remembered for an input, and positions that are told apart

Place = tuple[str, int | None]
"""The name of an input, and a position along its axis 1; None stands for all positions."""


def known_categories(
    nodes: Iterable[Any], inputs: Mapping[str, Sequence[int]], constants: Mapping[str, Constant]
) -> dict[str, Categories]:
    """The categories that the graph knows for its inputs, by the inputs' names.

    Args:
        nodes: The graph's nodes, in the order in which they run.
        inputs: The sizes of each input, by name; 0 for a dimension that varies.
        constants: The graph's weights, by name.
    """
    places = {name: _places(name, sizes) for name, sizes in inputs.items()}
    found: defaultdict[Place, dict[bytes | int, None]] = defaultdict(dict)
    for node in nodes:
        own = [places.get(name, []) for name in node.input]
        if not own or not own[0]:
            continue
        for place in own[0] if (known := _categories(node)) else ():
            found[place].update(dict.fromkeys(known))
        if node.op_type in _SAME:
            places[node.output[0]] = own[0]
        elif node.op_type == "Concat" and all(own):
            places[node.output[0]] = [place for several in own for place in several]
        elif node.op_type in ("Gather", "ArrayFeatureExtractor") and len(node.input) > 1:
            places[node.output[0]] = _picked(own[0], constants.get(node.input[1]))
    categories: defaultdict[str, dict[int | None, tuple[bytes | int, ...]]] = defaultdict(dict)
    for (name, position), values in found.items():
        categories[name][position] = tuple(values)[:_MOST]
    return dict(categories)


def _places(name: str, sizes: Sequence[int]) -> list[Place]:
    """The positions of an input whose categories may differ."""
    few = len(sizes) == 2 and 0 < sizes[1] <= _MOST
    return [(name, position) for position in range(sizes[1])] if few else [(name, None)]


def _picked(places: list[Place], indices: Constant | None) -> list[Place]:
    """The places at some positions along axis 1; all places if the positions are unknown."""
    if indices is None or not indices.values or not all(0 <= index < len(places) for index in indices.values):
        return places
    return [places[index] for index in indices.values]


def _categories(node: Any) -> list[bytes | int]:
    """The categories that an operator knows."""
    names = _KNOWN.get(node.op_type, ())
    return [value for own in node.attribute if own.name in names for value in (*own.strings, *own.ints)]

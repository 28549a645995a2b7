"""The categories that an ONNX graph knows for its inputs."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto
from onnx.helper import make_node

from headrace_server.backends.independence.categories import Categories, fill
from headrace_server.backends.onnx.categories import known_categories
from headrace_server.backends.onnx.row_rules import Constant

INDICES = {"first": Constant((1,), (0,)), "second": Constant((1,), (1,)), "both": Constant((2,), (0, 1))}
COLORS = (b"green", b"red")


def encoder(source: str) -> NodeProto:
    return make_node("OneHotEncoder", [source], ["y"], domain="ai.onnx.ml", cats_strings=["green", "red"])


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([encoder("x")], {"x": {0: COLORS, 1: COLORS}}),
        ([make_node("Identity", ["x"], ["a"]), encoder("a")], {"x": {0: COLORS, 1: COLORS}}),
        ([make_node("Gather", ["x", "second"], ["a"], axis=1), encoder("a")], {"x": {1: COLORS}}),
        ([make_node("ArrayFeatureExtractor", ["x", "first"], ["a"]), encoder("a")], {"x": {0: COLORS}}),
        ([make_node("Gather", ["x", "both"], ["a"], axis=1), encoder("a")], {"x": {0: COLORS, 1: COLORS}}),
        ([encoder("z")], {"z": {None: COLORS}}),
        (
            [make_node("Concat", ["z", "x"], ["a"], axis=1), encoder("a")],
            {"x": {0: COLORS, 1: COLORS}, "z": {None: COLORS}},
        ),
        ([make_node("Relu", ["x"], ["a"]), encoder("a")], {}),
    ],
)
def test_the_inputs_of_an_encoder_are_found(nodes: Sequence[NodeProto], expected: dict[str, Categories]) -> None:
    assert known_categories(nodes, {"x": [0, 2], "z": [0, 0]}, INDICES) == expected


def test_several_encoders_know_more() -> None:
    numbers = make_node("LabelEncoder", ["x"], ["i"], keys_int64s=[7, 11])
    more = make_node("OneHotEncoder", ["x"], ["j"], cats_int64s=[11, 13])

    assert known_categories([numbers, more], {"x": [0]}, {}) == {"x": {None: (7, 11, 13)}}


@pytest.mark.parametrize("only", [True, False])
def test_known_values_replace_all_others_or_half_of_them(only: bool) -> None:
    array = np.full((100, 2), b"other", object)

    fill(array, {1: COLORS}, np.random.default_rng(1), only=only)

    assert set(array[:, 0]) == {b"other"}
    assert set(array[:, 1]) == {*COLORS} if only else {*COLORS, b"other"}

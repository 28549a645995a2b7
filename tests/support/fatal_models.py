"""Models that crash their process on some requests that match their signatures, and such requests."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from onnx.helper import make_node

from headrace_batching.task import Arrays
from tests.support.graphs import FLOAT, INT64, Graph

ANY_RANK = None
MICROSOFT = "com.microsoft"


class Fatal(NamedTuple):
    """A model and its requests.

    Attributes:
        graph: The model.
        request: A request that crashes the process.
        fine: A request that does not crash it.
    """

    graph: Graph
    request: Arrays
    fine: Arrays


SIGNAL = np.ones((1, 16, 1), np.float32)
SQUARE = np.ones((4, 4), np.float32)
LENGTHS = np.full(4, 2, np.int64)

FATAL: Mapping[str, Fatal] = {
    "frames of length 0": Fatal(
        Graph(
            [make_node("STFT", ["x", "step", "", "length"], ["y"])],
            {"x": (FLOAT, (1, "T", 1)), "step": (INT64, ()), "length": (INT64, ())},
            {"y": (FLOAT, (1, None, None, 2))},
        ),
        {"x": SIGNAL, "step": np.array(4), "length": np.array(0)},
        {"x": SIGNAL, "step": np.array(4), "length": np.array(8)},
    ),
    "a rank too few": Fatal(
        Graph(
            [make_node("ReverseSequence", ["x", "lengths"], ["y"])],
            {"x": (FLOAT, ANY_RANK), "lengths": (INT64, ("N",))},
            {"y": (FLOAT, ANY_RANK)},
        ),
        {"x": SQUARE[0], "lengths": LENGTHS},
        {"x": SQUARE, "lengths": LENGTHS},
    ),
    "an untested operator": Fatal(
        Graph(
            [make_node("Inverse", ["x"], ["y"], domain=MICROSOFT)],
            {"x": (FLOAT, ("M", "N"))},
            {"y": (FLOAT, ("M", "N"))},
            domains=[(MICROSOFT, 1)],
        ),
        {"x": np.ones((1, 3000), np.float32)},
        {"x": np.eye(4, dtype=np.float32)},
    ),
    "a quotient too large": Fatal(
        Graph(
            [make_node("Div", ["x", "d"], ["y"])], {"x": (INT64, ("N",)), "d": (INT64, ("N",))}, {"y": (INT64, None)}
        ),
        {"x": np.full(1, np.iinfo(np.int64).min), "d": np.full(1, -1)},
        {"x": np.full(1, 6), "d": np.full(1, -2)},
    ),
}
"""The models, by the fault of the request."""

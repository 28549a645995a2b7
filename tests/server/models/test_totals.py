"""A decoder's mask has as many elements as there are earlier and new tokens: the trial finds such inputs by names."""

import numpy as np
import pytest
from onnx.helper import make_node

from headrace_server.backends.independence import Finding
from headrace_server.backends.onnx.backend import OnnxBackend
from tests.support.graphs import FLOAT, INT64, Graph, Value, weights
from tests.support.shop import Shop


def decoder(past: str, total: str, new: str | int) -> Graph:
    """The masked attention of new tokens to themselves and to earlier ones."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["key"]),
        make_node("Concat", ["past", "key"], ["all"], axis=1),
        make_node("Transpose", ["all"], ["t"], perm=[0, 2, 1]),
        make_node("MatMul", ["x", "t"], ["s"]),
        make_node("Cast", ["mask"], ["m"], to=FLOAT),
        make_node("Unsqueeze", ["m", "one"], ["wide"]),
        make_node("Mul", ["s", "wide"], ["kept"]),
        make_node("MatMul", ["kept", "all"], ["y"]),
    ]
    inputs: dict[str, Value] = {
        "x": (FLOAT, ["N", new, 4]),
        "past": (FLOAT, ["N", past, 4]),
        "mask": (INT64, ["N", total]),
    }
    outputs: dict[str, Value] = {"y": (FLOAT, ["N", new, 4]), "all": (FLOAT, ["N", total, 4])}
    return Graph(nodes, inputs, outputs, {"w": weights(4, 4), "one": np.array([1])})


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores the proofs from graphs, so that every model goes through the trial."""
    monkeypatch.setattr(OnnxBackend, "rows_are_apart", lambda *_: False)


@pytest.mark.parametrize(
    ("past", "total", "new"),
    [
        ("past_sequence_length", "total_sequence_length", "sequence_length"),
        ("past_len", "total_len", "T"),
        ("PastTokens", "TotalTokens", 1),
        ("past", "past + T", "T"),
    ],
)
def test_a_mask_of_all_tokens(shop: Shop, past: str, total: str, new: str | int) -> None:
    assert shop.verdict(decoder(past, total, new)).finding is Finding.INDEPENDENT


def test_other_names_stay_as_they_are(shop: Shop) -> None:
    assert shop.verdict(decoder("P", "Q", "T")).finding is Finding.UNDECIDED

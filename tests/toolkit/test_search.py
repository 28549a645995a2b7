"""The search: which candidates it tries, and which wins, with made-up measurements."""

from collections import Counter

import pytest

from headrace_toolkit.graph import Facts
from headrace_toolkit.search import CANDIDATES, Circumstances, Outcome, verdicts, why_not

CONVOLUTIONS = Facts(Counter({"Conv": 3, "Gemm": 1}), (9000,))
PRODUCTS = Facts(Counter({"MatMul": 2}), (9000,))
TREES = Facts(Counter({"TreeEnsembleClassifier": 1}), ())
QUANTIZED = Facts(Counter({"QuantizeLinear": 1, "Conv": 1}), ())
ON_X86 = Circumstances(calibrated=True, target="x86")


def outcome(name: str, drop: float = 0.0, size: float = 0.3, time: float = 0.5, difference: float = 1.0) -> Outcome:
    return Outcome(name=f"{name} int8, per channel", drop=drop, bytes=size, time=time, difference=difference)


@pytest.mark.parametrize(
    ("candidate", "facts", "given", "words"),
    [
        ("dynamic", CONVOLUTIONS, ON_X86, "3 Conv, which are slower in dynamic int8"),
        ("static", CONVOLUTIONS, ON_X86, ""),
        ("dynamic", PRODUCTS, ON_X86, ""),
        ("static", PRODUCTS, Circumstances(calibrated=False, target="x86"), "there are no rows to calibrate on"),
        ("half", PRODUCTS, ON_X86, "never faster on a CPU"),
        ("half", PRODUCTS, Circumstances(calibrated=True, target="gpu"), ""),
        ("share 16", Facts(Counter({"MatMul": 1}), (100,)), ON_X86, "no weight has 1,024 values"),
        ("static", Facts(Counter({"Relu": 1}), (9000,)), ON_X86, "no Conv, MatMul or Gemm"),
        *[(name, TREES, ON_X86, "a tree ensemble has no weights") for name in CANDIDATES],
        *[(name, QUANTIZED, ON_X86, "already quantized") for name in CANDIDATES],
    ],
)  # fmt: skip
def test_candidates_that_are_not_tried(candidate: str, facts: Facts, given: Circumstances, words: str) -> None:
    reason = why_not(candidate, facts, given)
    assert bool(reason) == bool(words)
    assert words in reason


def test_the_fastest_within_the_limit_wins() -> None:
    outcomes = {"static": outcome("static", time=0.6), "share 16": outcome("k-means", size=0.15, time=1.0)}
    assert verdicts(outcomes, 0.5, None) == ("static", {"share 16": "slower than static int8"})


def test_of_equally_fast_ones_the_smallest_wins() -> None:
    outcomes = {"share 256": outcome("a", size=0.3, time=0.95), "share 16": outcome("b", size=0.15, time=0.99)}
    winner, reasons = verdicts(outcomes, 0.5, None)
    assert (winner, reasons) == ("share 16", {"share 256": "larger than b int8, and no faster"})


def test_a_smaller_file_that_is_as_fast_wins_where_nothing_is_faster() -> None:
    outcomes = {"share 256": outcome("a", size=0.3, time=0.97), "share 16": outcome("b", size=0.15, time=1.04)}
    assert verdicts(outcomes, 0.5, None)[0] == "share 16"
    assert verdicts(outcomes, 0.5, 1.0)[0] == "share 256"


def test_dynamic_is_preferred_unless_static_is_much_faster() -> None:
    dynamic = outcome("dynamic", time=0.6, difference=0.1)
    winner, reasons = verdicts({"static": outcome("static", time=0.4), "dynamic": dynamic}, 0.5, None)
    assert winner == "dynamic"
    assert reasons["static"] == "only 1.5 times as fast as dynamic int8, with 10 times its largest difference"
    assert verdicts({"static": outcome("static", time=0.25), "dynamic": dynamic}, 0.5, None)[0] == "static"
    worse = outcome("dynamic", time=0.6, drop=3.0)
    assert verdicts({"static": outcome("static", time=0.5), "dynamic": worse}, 0.5, None)[0] == "static"


def test_no_candidate_wins_that_misses_a_limit() -> None:
    outcomes = {"static": outcome("static", drop=0.6), "share 16": outcome("k-means", time=1.2)}
    winner, reasons = verdicts(outcomes, 0.5, None)
    assert winner == ""
    assert reasons == {"static": "loses 0.60 points, more than 0.5", "share 16": "slower"}
    assert verdicts({"static": outcome("static", time=0.6)}, 0.5, 2.0)[1] == {"static": "not 2 times as fast"}

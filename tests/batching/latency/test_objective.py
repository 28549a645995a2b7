"""Valid latency objectives, and the errors of invalid ones."""

import pytest

from headrace_batching import LatencyObjective, ObjectiveError, Options, OptionsError
from headrace_batching.objective import is_objective


@pytest.mark.parametrize(
    ("text", "share", "seconds"),
    [
        ("p99 20ms", 0.99, 0.020),
        (" p50 1.5 s ", 0.50, 1.5),
        ("p99.9 800us", 0.999, 0.0008),
        ("p99.99 3600s", 0.9999, 3600.0),
    ],
)
def test_an_objective_is_a_percentile_and_a_time(text: str, share: float, seconds: float) -> None:
    objective = LatencyObjective.parse(text)

    assert objective.text == text.strip()
    assert objective.share == pytest.approx(share)
    assert objective.seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "20", "p99", "20ms", "p99 -3ms", "p101 2ms", "p100 2ms", "p9 2ms", "p49 2ms", "p99 0ms", "p99 20", "p99 20m",
     "p99 1e9s", "p99 nanms", "p99 3601s", "p99 1us", "P99 20ms", "p99.999 20ms", "p99  20ms 30ms", "p99 २ms"],
)  # fmt: skip
def test_the_error_for_any_other_text_quotes_it(text: str) -> None:
    with pytest.raises(ObjectiveError) as refusal:
        LatencyObjective.parse(text)

    expected = f'latency_objective must be a percentile from p50 to p99.99 and a time, such as "p99 20ms"; was {text!r}'
    assert str(refusal.value) == expected
    assert is_objective(text) == (not text)


def test_options_parse_their_objective() -> None:
    assert Options().objective is None
    assert Options(latency_objective="p95 5ms").objective == LatencyObjective("p95 5ms", 0.95, 0.005)
    with pytest.raises(OptionsError, match=r"latency_objective must be a percentile .* or empty; was 'p99 -3ms'"):
        Options(latency_objective="p99 -3ms")
